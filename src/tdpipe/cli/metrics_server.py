"""`--metrics-port`: a run's figures for Prometheus, on this machine's own address only.

Names are vLLM's where the meaning is the same, so that its dashboards show a run of tdpipe too; all
others begin with "tdpipe:".
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tdpipe.core.errors import ConfigError
from tdpipe.outputs import Progress

ADDRESS = "127.0.0.1"
START = Progress(0, 0, 0, 0, "", 0.0, 0.0)
# Name, what it says, and the field of Progress.
GAUGES = (
    ("vllm:num_requests_running", "Requests that hold KV blocks.", "num_running"),
    ("vllm:num_requests_waiting", "Requests waiting to be processed.", "num_waiting"),
    ("vllm:kv_cache_usage_perc", "KV cache use; 1 is all of it.", "kv_used_share"),
    ("tdpipe:requests_known", "Jobs read so far.", "num_requests"),
    ("tdpipe:elapsed_seconds", "Time since the first batch.", "elapsed_s"),
    ("tdpipe:recent_output_tokens_per_second", "Of the last seconds.", "recent_tokens_per_s"),
    ("tdpipe:recomputed_share", "Of all tokens computed.", "recomputed_share"),
    ("tdpipe:lane_imbalance", "Spread of decode batches over their mean.", "lane_imbalance"),
)
COUNTERS = (
    ("vllm:prompt_tokens", "Prompts whose first token is there.", "entered_prompt_tokens"),
    ("vllm:generation_tokens", "Generated tokens.", "num_output_tokens"),
    ("vllm:num_preemptions", "Preemptions.", "num_preemptions"),
    ("tdpipe:prefilled_tokens", "Tokens prefilled, recomputed ones included.", "prefilled_tokens"),
    ("tdpipe:recomputed_tokens", "Tokens prefilled again.", "recomputed_tokens"),
    ("tdpipe:requests_finished", "Jobs that ended, failed ones included.", "num_finished"),
    ("tdpipe:requests_failed", "Jobs that failed.", "num_failed"),
    ("tdpipe:restarts", "Restarts of the pipeline.", "num_restarts"),
)


class MetricsServer:
    """Serves the latest moment until it is closed.

    Args:
        port: 0 takes a free one; `port` tells which.

    Raises:
        ConfigError: the port cannot be listened on.
    """

    def __init__(self, port: int, model: str) -> None:
        if not 0 <= port < 1 << 16:
            raise ConfigError("metrics_port", port, "use 0 (any free port) to 65535")
        self._moment = Moment(model)
        registry = CollectorRegistry()
        registry.register(self._moment)
        try:
            self._server, self._thread = start_http_server(port, ADDRESS, registry)
        except OSError as error:
            fix = f"cannot be listened on ({error.strerror}); use another port, 0 for a free one"
            raise ConfigError("metrics_port", port, fix) from None
        self.port = int(self._server.server_port)

    def show(self, progress: Progress) -> None:
        """Serve this moment from now on."""
        self._moment.progress = progress

    def close(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Moment(Collector):
    """Turns the latest Progress into metrics each time it is asked."""

    def __init__(self, model: str) -> None:
        self.progress = START
        self._labels = {"model_name": model, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        """The metrics of the moment."""
        now = self.progress
        for name, words, field in GAUGES:
            yield self._gauge(name, words, getattr(now, field))
        for name, words, field in COUNTERS:
            yield self._counter(name, words, getattr(now, field))
        if now.left_s is not None:
            yield self._gauge("tdpipe:left_seconds", "Time until the known jobs end.", now.left_s)
        yield from self._by_label(now)

    def _by_label(self, now: Progress) -> Iterator[Metric]:
        """Those with a label more: finish reason, phase, stage."""
        ended = CounterMetricFamily(
            "vllm:request_success", "Finished requests.", labels=[*self._labels, "finished_reason"]
        )
        for reason, count in now.ended:
            ended.add_metric([*self._labels.values(), reason], count)
        phase = GaugeMetricFamily("tdpipe:phase", "1 for the phase.", labels=["phase"])
        phase.add_metric([now.phase or "starting"], 1)
        busy = GaugeMetricFamily(
            "tdpipe:stage_busy_share", "Of the last seconds.", labels=["stage"]
        )
        for stage, share in enumerate(now.stage_busy_shares):
            busy.add_metric([str(stage)], share)
        yield from (ended, phase, busy)

    def _gauge(self, name: str, words: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, words, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _counter(self, name: str, words: str, value: float) -> Metric:
        family = CounterMetricFamily(name, words, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family
