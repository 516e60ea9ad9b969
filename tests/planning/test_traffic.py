"""Bytes and seconds of rings, by hand."""

from __future__ import annotations

import pytest

from alignkit.planning.cutting import CutModel, Group
from alignkit.planning.traffic import BUCKET, GATHER, SCATTER, SUM, Traffic, ddp_traffic, fsdp_traffic

LAYER, ROOT = Group(gathered=100, scattered=100), Group(gathered=40, scattered=40)
POLICY = CutModel(ranks=4, layers=(LAYER, LAYER), root=ROOT)
FROZEN = CutModel(ranks=4, layers=(Group(gathered=100, scattered=0),) * 2, root=Group(gathered=40, scattered=0))


def test_layers_are_gathered_twice_and_the_root_once():
    traffic = fsdp_traffic(POLICY, [], around=8, micro_batches=3)
    assert traffic.bytes == {GATHER: 3 * (40 + 2 * 100 + 2 * 100), SCATTER: 3 * 240, SUM: 8}
    assert traffic.calls == {GATHER: 15, SCATTER: 9, SUM: 1}


def test_a_reference_is_gathered_once_and_its_root_twice():
    alone, beside = (fsdp_traffic(POLICY, references, around=0, micro_batches=1) for references in ([], [FROZEN]))
    assert beside.bytes[GATHER] - alone.bytes[GATHER] == 200 + 2 * 40
    assert beside.bytes[SCATTER] == alone.bytes[SCATTER]


def test_what_is_not_trained_is_not_gathered_for_a_backward_pass():
    assert fsdp_traffic(FROZEN, [], around=0, micro_batches=1).bytes == {GATHER: 240, SUM: 0}
    assert fsdp_traffic(None, [], around=0, micro_batches=1) is None


def test_a_sum_goes_around_twice():
    ring = ddp_traffic(4, 1000)
    assert ring.passed(SUM) == 2 * 1000 * 3 // 4
    # 1,500 bytes at 80 % of 1 GB/s, and 2 * 3 hops of 3 us.
    assert ring.seconds(1.0) == pytest.approx(1500 / 0.8e9 + 18e-6)


def test_a_sum_of_gradients_is_one_call_a_bucket():
    assert ddp_traffic(2, 2 * BUCKET + 1).calls == {SUM: 3}
    assert ddp_traffic(2, 2 * BUCKET + 1).bytes == {SUM: 2 * BUCKET + 1}


def test_more_ranks_pass_almost_all_of_a_gathering_through_each_link():
    passed = []
    for ranks in (2, 8, 1024):
        ring = Traffic(ranks=ranks)
        ring.add(GATHER, [1024])
        passed.append(ring.passed(GATHER))
    assert passed == [512, 896, 1023]
