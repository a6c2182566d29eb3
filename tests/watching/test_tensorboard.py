"""TensorBoard: what the event files say."""

import struct

import pytest
from tracked import curve

import fedem_jax as fj

pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData


def values_in(folder):
    """Step and value of everything in the event files, the oldest first."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):  # length, its checksum, event, its checksum
            (length,) = struct.unpack("<Q", content[place : place + 8])
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            yield from ((event.step, value) for value in event.summary.value)


def scalars(folder, name):
    return [(step, value.simple_value) for step, value in values_in(folder) if value.tag == name]


def plugin_data(folder, tag):
    """The data of the tab HParams."""
    (content,) = (
        value.metadata.plugin_data.content
        for _, value in values_in(folder)
        if value.tag == f"_hparams_/{tag}"
    )
    return HParamsPluginData.FromString(content)


def test_curves_settings_and_result(tracked, tmp_path):
    result = tracked.whole(fj.TensorBoard(tmp_path / "x"))
    for name in ("loss", "bytes_up", "val/hr_at_3", "test_full/ndcg_at_10", "coverage"):
        assert scalars(tmp_path / "x", name) == curve(result, name)
    best = result.summary["headline"]
    value = pytest.approx(best["test"]["hr@3"])
    assert scalars(tmp_path / "x", "best/test/hr_at_3") == [(5, value)]
    assert scalars(tmp_path / "x", "best/round") == [(5, best["round"])]
    started = plugin_data(tmp_path / "x", "session_start_info").session_start_info.hparams
    assert started["lr_embedding"].number_value == pytest.approx(tracked.config.lr_embedding)
    assert started["protocol"].string_value == "leak-free*"
    assert started["num_candidates"].number_value == 6
    assert started["columns"].string_value == "[]"
    assert started["per_client"].bool_value is False
    columns = plugin_data(tmp_path / "x", "experiment").experiment
    shown = {info.name.tag for info in columns.metric_infos}
    assert all(scalars(tmp_path / "x", name) for name in shown)
    assert plugin_data(tmp_path / "x", "session_end_info").session_end_info.status == 1


def test_an_early_end_has_its_reason(tracked, tmp_path):
    tracked.early(fj.TensorBoard(tmp_path / "x"))
    (text,) = (value for _, value in values_in(tmp_path / "x") if "ended_early" in value.tag)
    assert text.tensor.string_val == [b"enough"]


def test_a_broken_run_keeps_its_rounds(tracked, tmp_path):
    tracked.broken(fj.TensorBoard(tmp_path / "x"))
    assert [step for step, _ in scalars(tmp_path / "x", "loss")] == [1, 2]
    assert not scalars(tmp_path / "x", "best/round")


def test_a_resumed_run_has_all_rounds(tracked, tmp_path):
    result = tracked.resumed(lambda: fj.TensorBoard(tmp_path / "x"))
    assert scalars(tmp_path / "x", "loss")[-5:] == curve(result, "loss")
