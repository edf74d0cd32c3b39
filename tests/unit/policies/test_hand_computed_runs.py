"""Every scheduler on three requests over two stages, every batch worked out by hand.

A batch is written as its phase (P prefill, D decode, M mixed), its prefill slices a:tokens, its
decodes, its preempted requests with a minus, and the second at which its result is back. Comments
give its time on each stage, which begins when the batch and the stage are there. Three batches are
on their way at most (two over one stage).

Unless said otherwise a stage takes 100 s a batch + 1 s a token, and a KV block holds 100 tokens:
a prompt of 200 tokens holds 2 blocks, and a third from its first decode on.
"""

from dataclasses import dataclass

from factories import make_control, make_limits, make_new
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.control.plan_recorder import PlanRecorder
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.simulation.simulated_pipeline import SimulatedPipeline

EQUAL = ((200, 3), (200, 2), (200, 3))  # prompt and output tokens of a, b and c
LONG_LAST = ((200, 3), (200, 2), (1500, 2))


@dataclass
class LinearCost:
    """A stage takes batch_s + token_s for each token, prefill or decode; links take nothing."""

    num_stages: int = 2
    batch_s: float = 100.0
    token_s: float = 1.0

    def stage_time_s(self, stage, load):
        return self.batch_s + self.token_s * load.num_tokens

    def transfer_time_s(self, num_tokens):
        return 0.0


class BatchLog(PlanRecorder):
    """Writes plans as this file does."""

    def record(self, plan, choice):
        parts = [plan.phase[0].upper()]
        for index, piece in enumerate(plan.slices):
            tokens = f":{piece.num_tokens}" if index < plan.num_prefills else ""
            parts.append("abc"[piece.request_id] + tokens)
        self.lines.append(" ".join(parts + ["-" + "abc"[victim] for victim in choice.preempted]))


def run(scheduler, lengths, cost=None, num_blocks=100, **limits):
    """All batches of a run; outputs are as long as predicted."""
    cost = cost or LinearCost()
    limits = make_limits(cost.num_stages, num_blocks, **{"block_size": 100, **limits})
    log = BatchLog()
    control = make_control(make_scheduler(scheduler, cost), limits, recorder=log)
    pipeline = SimulatedPipeline(cost)
    requests = [make_new(i, prompt, output) for i, (prompt, output) in enumerate(lengths)]
    list(drive(control, pipeline, ScheduledArrivals.all_at_once(requests)))
    control.check()
    backs = [span.end_s for span in pipeline.spans if span.stage == cost.num_stages - 1]
    return [f"{line} @{back:g}" for line, back in zip(log.lines, backs, strict=True)]


def test_pp_separate():
    assert run("pp-separate", EQUAL, max_num_batched_tokens=400) == [
        "P a:200 b:200 @1000",  # 100 + 400 s: 0-500, 500-1000; c would make it 600 > 400 tokens
        "P c:200 @1300",  # 300 s: 500-800, 1000-1300
        "D a b @1402",  # half of 3, rounded up; 102 s: 1000-1102, 1300-1402; b has its 2
        "D c @1503",  # back at 1300: 1300-1401, 1402-1503
        "D a @1604",  # half of a, c: 1402-1503, 1503-1604; a has its 3
        "D c @1705",  # 1503-1604, 1604-1705
    ]


def test_pp_separate_unbalanced():
    assert run("pp-separate-unbalanced", EQUAL) == [
        "P a:200 b:200 c:200 @1400",  # 700 s: 0-700, 700-1400
        "D a b c @1606",  # all at hand, nothing is left for a second batch; 103 s twice
        "D a c @1810",  # 102 s twice: one of the two stages is always idle
    ]


def test_pp_hybrid_unbalanced():
    assert run("pp-hybrid-unbalanced", EQUAL) == [
        "P a:200 b:200 c:112 @1224",  # 512 tokens, 612 s: 0-612, 612-1224
        "P c:88 @1412",  # 188 s: 612-800, 1224-1412
        "D a b @1514",  # both at hand at 1224: 1224-1326, 1412-1514
        "D c @1615",  # at 1412: 1412-1513, 1514-1615
        "D a @1716",  # 1514-1615, 1615-1716
        "D c @1817",  # 1615-1716, 1716-1817
    ]


def test_pp_separate_in_scarce_memory():
    assert run("pp-separate", EQUAL, num_blocks=6) == [
        "P a:200 b:200 c:200 @1400",  # all 6 blocks; 0-700, 700-1400
        "D a b -c @1604",  # a and b need a third block each: c, the youngest, gives its 2 back
        "P c:201 @2206",  # b is done, 3 blocks free: prefill first; 301 s: 1604-1905, 1905-2206
        "D a @2307",  # half of a, c: 1905-2006, 2206-2307
        "D c @2408",  # its second token came from the prefill
    ]


def test_tp_separate():
    assert run("tp-separate", EQUAL, LinearCost(1), max_num_batched_tokens=400) == [
        "P a:200 b:200 @500",  # 0-500
        "P c:200 @800",  # 500-800
        "D a b @902",  # planned at 500, when c is not back yet
        "D a c @1004",  # all that decode: one stage, one share
        "D c @1105",
    ]


def test_pp_hybrid():
    assert run("pp-hybrid", LONG_LAST) == [
        "P a:200 b:200 c:112 @1224",  # 512 tokens, 612 s: 0-612, 612-1224
        "P c:512 @1836",  # 612-1224, 1224-1836
        "P c:512 @2448",  # 1224-1836, 1836-2448
        "M c:364 a @2913",  # half of a, b + what is left of c; 465 s: 1836-2301, 2448-2913
        "D b @3014",  # planned at 1836: 2301-2402, 2913-3014
        "D a c @3117",  # at 2913, half of 3 rounded up: 2913-3015, 3015-3117
    ]


def test_pp_hybrid_in_scarce_memory():
    assert run("pp-hybrid", EQUAL, num_blocks=6) == [
        "P a:200 b:200 c:112 @1224",  # takes the last blocks
        "P c:88 @1412",  # fits the blocks that c holds; 188 s: 612-800, 1224-1412
        "D a -b @1513",  # a, b need one block each; c, the youngest, is on its way: b must go
        "D c @1614",  # takes the last block: 1412-1513, 1513-1614
        "D a @1715",  # b would need 3 blocks
        "D c @1816",  # 1614-1715, 1715-1816
        "P b:201 @2317",  # a is done at 1715: 1715-2016, 2016-2317; samples the last token of b
    ]


def test_pp_hybrid_2048():
    assert run("pp-hybrid-2048", ((200, 3), (200, 2), (2000, 2))) == [
        "P a:200 b:200 c:1648 @4296",  # 2048 tokens, 2148 s: 0-2148, 2148-4296
        "P c:352 @4748",  # 452 s: 2148-2600, 4296-4748
        "D a b @4850",  # at 4296: 4296-4398, 4748-4850
        "D c @4951",  # at 4748: 4748-4849, 4850-4951
        "D a @5052",  # at 4850, half of a, c: 4850-4951, 4951-5052
    ]


def test_tp_hybrid():
    assert run("tp-hybrid", LONG_LAST, LinearCost(1)) == [
        "P a:200 b:200 c:112 @612",
        "P c:512 @1224",
        "M c:510 a b @1836",  # 2 of the 512 tokens are decodes; 1134 of c are sent
        "M c:366 a @2303",  # the rest of c: 1836 + 100 + 367
        "D c @2404",
    ]


def test_token_throttling():
    assert run("token-throttling", ((32, 3), (32, 2), (64, 3))) == [
        "P a:32 @264",  # 128 waiting / 8 = 16, but 32 at least: 132 s: 0-132, 132-264
        "P b:32 @396",  # 132-264, 264-396
        "P c:32 @528",  # 264-396, 396-528
        "M c:32 a @662",  # half of a, b; 133 s: 396-529, 529-662
        "D b @763",  # at 396: 529-630, 662-763
        "D a c @866",  # at 662, half of 3 rounded up: 662-764, 764-866
        "D c @1068",  # at 866: 866-967, 967-1068
    ]


def test_token_throttling_in_scarce_memory():
    """20 blocks of 4 tokens: k = 0.05 keeps 1 block free of new prompts."""
    lengths = ((32, 2), (32, 3), (16, 2))
    assert run("token-throttling", lengths, num_blocks=20, block_size=4) == [
        "P a:32 @264",  # 80 / 8 = 10, but 32 at least; 8 blocks
        # 12 of 20 free: min(32, round(2048 x (0.6 - 0.05) / 0.95) = 1186, 4 x (12 - 1) = 44)
        "P b:32 @396",
        "D a @497",  # c needs 4 blocks, 4 are free, but 1 is reserved; a takes one more
        "D b @598",  # 396-497, 497-598
        "P c:16 @729",  # a is done, 9 + 2 blocks are free; 116 s: 497-613, 613-729
        "D b @830",  # at 598: 613-714, 729-830
        "D c @931",  # at 729: 729-830, 830-931
    ]


def test_td_pipe_with_and_without_stealing():
    lengths = ((200, 4), (200, 4), (200, 2))
    until_c_is_done = [
        "P a:200 @600",  # 200 tokens pass the saturation point of 192: 0-300, 300-600
        "P b:200 @900",  # 300-600, 600-900
        "P c:200 @1200",  # 600-900, 900-1200
        "D a b @1302",  # lanes a b | c; b is back at 900: 900-1002, 1200-1302
        "D c @1403",  # at 1200: 1200-1301, 1302-1403
        "D a b @1506",  # c still counts: (2 + 1) / 2 rounded up; 1302-1404, 1404-1506
    ]
    assert run("td-pipe", lengths) == [
        *until_c_is_done,
        "D a @1708",  # (2 + 0) / 2 = 1: b is withheld; 1506-1607, 1607-1708
        "D b @1809",  # the empty lane takes it: 1607-1708, 1708-1809
    ]
    assert run("td-pipe-no-stealing", lengths) == [
        *until_c_is_done,
        "D a b @1710",  # 1506-1608, 1608-1710
    ]


# 7 blocks, threshold 6.3. At the next step each of the three will hold 3 blocks: 3 + 3 = 6 < 6.3,
# but 9: c waits. When b is done, the 2 blocks of c are free, and the forecast is 3 for a + 3 for c.
C_WAITS = ((200, 4), (200, 2), (200, 2))


def test_td_pipe_switches_by_intensity():
    assert run("td-pipe", C_WAITS, num_blocks=7) == [
        "P a:200 @600",
        "P b:200 @900",
        "D a @1001",  # at 600: 600-701, 900-1001
        "D b @1102",  # at 900: 900-1001, 1001-1102; b has its 2, its lane stays empty
        "D a @1203",  # at 1001: 1001-1102, 1102-1203
        # Next round. Spatial: (1 / 101) / (256 / 356) = 0.014. Temporal: the prefill takes 300 s,
        # a decode 101 s, bubble 1 x 199, total 300 + 2 x 101 + 199 = 701: 1 - 199 / 701 = 0.716.
        "P c:200 @1803",  # 1203-1503, 1503-1803
        "D a @1904",  # lanes a | c: 1503-1604, 1803-1904
        "D c @2005",  # at 1803: 1803-1904, 1904-2005
    ]


def test_td_pipe_decodes_on_where_finished_switches():
    cost = LinearCost(batch_s=1, token_s=100)  # small decode batches lose nothing
    until_c_fits = [
        "P a:200 @40002",  # 20001 s on each stage
        "P b:200 @60003",
        "D a @60104",  # at 40002: 40002-40103, 60003-60104
        "D b @60205",  # at 60003; done
        "D a @60306",
    ]
    assert run("td-pipe", C_WAITS, cost, num_blocks=7) == [
        *until_c_fits,
        # Spatial: (1 / 101) / (256 / 25601) = 0.990. Temporal: bubble 20001 - 101 = 19900,
        # total 20001 + 2 x 101 + 19900 = 40103: 1 - 19900 / 40103 = 0.504.
        "D a @60508",  # 60306-60407, 60407-60508; done
        "P c:200 @100510",  # nothing is resident: 60508-80509, 80509-100510
        "D c @100712",
    ]
    assert run("td-pipe-finished", C_WAITS, cost, num_blocks=7) == [
        *until_c_fits,
        "P c:200 @100308",  # 1 of 2 has finished, 1 >= 0.2 x 2: 60306-80307, 80307-100308
        "D a @100409",  # 80307-80408, 100308-100409
        "D c @100510",
    ]


def test_td_pipe_occupancy():
    assert run("td-pipe-occupancy", EQUAL, num_blocks=7) == [
        "P a:200 @600",
        "P b:200 @900",
        "P c:200 @1200",  # 6 blocks in use, 6 <= 6.3, whatever comes later; lanes a b | c
        "D a -b @1301",  # a, b need one block each, one is free, c is on its way: b must go
        "D c @1402",  # at 1200: 1200-1301, 1301-1402; takes the last block
        "D a @1503",  # b needs 3 blocks, 1 is free: 1301-1402, 1402-1503
        "D c @1604",  # 1402-1503, 1503-1604
        # a is done, 3 + 3 of 7 blocks. Spatial 0.014; temporal 1 - 200 / (301 + 202 + 200) = 0.716.
        "P b:201 @2105",  # 1503-1804, 1804-2105; samples its last token
    ]


def test_adaptive_by_the_token():
    """0 s a batch + 1 s a token: batches of one token are efficient.

    8 output and 6 prompt tokens are 7 rounds of 2 x 1. The 4 tokens of c take more than half of
    them, so it goes first though it came last.
    """
    assert run("adaptive", ((2, 2), (2, 2), (2, 4)), LinearCost(batch_s=0)) == [
        "P c:1 @2",
        "P c:1 @3",
        "P a:1 @4",
        "P a:1 @5",  # at 2
        "D c @6",  # at 3: a batch is full with one decode
        "P b:1 @7",  # at 4, when no decode is at hand
        "D a @8",  # at 5: 6-7, 7-8
        "D c @9",  # at 6: 7-8, 8-9; two decode batches are on their way
        "P b:1 @10",  # at 8, when a is done and no decode at hand
        "D c @11",
        "D b @12",  # 11 batches, and no stage was ever idle between its first and its last
    ]


def test_adaptive_mixes():
    """16 s a batch + 1 s a token: 3000 prompt tokens fill two stages best in batches of 226.

    (3000 / n + 1) x (16 + n) is 3454 s with 226 tokens, 3455 with 205 and 3458 with 249, the sizes
    next to it. The 3010 tokens left are 6.7 such rounds, more than any request needs; least more
    for c, so it comes first.
    """
    assert run("adaptive", ((1000, 3), (1000, 3), (1000, 4)), LinearCost(batch_s=16)) == [
        "P c:226 @484",  # 242 s, as each of 226 tokens: 0-242, 242-484
        "P c:226 @726",
        "P c:226 @968",
        "P c:226 @1210",
        "P c:96 a:130 @1452",
        "P a:226 @1694",
        "P a:226 @1936",
        "M a:225 c @2178",  # at 1452
        "P a:193 b:33 @2420",
        "P b:226 @2662",
        "M b:225 c @2904",  # at 2178
        "M b:225 a @3146",  # at 2420
        "M b:225 c @3388",  # at 2904, when one of two batches with decodes is back; its last
        "M b:66 a @3471",  # at 3146, its last; 83 s: 3146-3229, 3388-3471
        "D b @3505",  # 17 s: 3471-3488, 3488-3505
        "D b @3539",
    ]


def test_adaptive_in_scarce_memory():
    """3 blocks for each at its peak, and half a block of waste.

    Of 13 blocks 13 x (1 - 0.7 / sqrt(2)) = 6.6 may be planned for two requests, 7.7 for three:
    b must wait. Batches of 302 tokens: (900 / n + 1) x (100 + n) is 1600 s, 1602 and 1603 beside.
    Later (300 / n + 1) x (100 + n) is 747 s with 173 tokens, 751 with 205; the largest that are as
    good with the decodes after it.
    """
    assert run("adaptive", ((300, 3), (300, 3), (300, 4)), num_blocks=13) == [
        "P c:300 a:2 @804",  # the longest first, 402 s: 0-402, 402-804
        "P a:298 @1202",  # 398 s: 402-800, 804-1202
        "D c @1303",  # at 804, 101 s: 804-905, 1202-1303
        "D a @1404",  # 1202-1303, 1303-1404
        "D c @1505",
        "D a @1606",  # its last
        "D c @1707",  # its last
        "P b:205 @2216",  # at 1606: 305 s, 1606-1911, 1911-2216
        "P b:95 @2411",  # 195 s: 1911-2106, 2216-2411
        "D b @2613",
        "D b @2815",
    ]
