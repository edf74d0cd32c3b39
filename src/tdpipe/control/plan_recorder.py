"""A record of every decision, small enough to keep as a golden file and to compare line by line."""

from tdpipe.core.batch_plan import BatchPlan
from tdpipe.policies.policy import Choice


class PlanRecorder:
    """Collects one line a plan: what was chosen, in the order it was submitted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def record(self, plan: BatchPlan, choice: Choice) -> None:
        """Append the plan as `id phase p:request+tokens... d:requests x:preempted # reason`."""
        parts = [f"{plan.batch_id} {plan.phase}"]
        if choice.prefills:
            chunks = " ".join(f"{chunk.request_id}+{chunk.num_tokens}" for chunk in choice.prefills)
            parts.append(f"p:{chunks}")
        if choice.decodes:
            parts.append("d:" + " ".join(map(str, choice.decodes)))
        if choice.preempted:
            parts.append("x:" + " ".join(map(str, choice.preempted)))
        if plan.reason:
            parts.append(f"# {plan.reason}")
        self.lines.append(" ".join(parts))
