from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab2pix import cli
from lab2pix.batch import Batch
from lab2pix.config.schema import SketchConfig
from lab2pix.data.label_maps import write_label_png
from lab2pix.errors import CheckpointError, ConfigError, DataError, LabelError, OutputError
from lab2pix.inference import Synthesizer, generate_folder, weights
from lab2pix.inference.folder import has_known_values
from lab2pix.labels.space import LabelSpace
from tests.helpers.generators import TINY, tiny_synthesizer
from tests.helpers.hub import use_folders_as_hub


def make(space: str = "scenes", *, edges: bool = False, method: str = "lab2pix-v2", **generator: object) -> Synthesizer:
    return tiny_synthesizer(space, method=method, data={"instance_edges": edges}, **generator)


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return make()


@pytest.fixture(scope="module")
def progressive() -> Synthesizer:
    """Return a generator of three sizes."""
    return make(method="lab2pix-v1", progressive=True, coattention=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, synthesizer: Synthesizer) -> Path:
    """Return a run folder with two whole checkpoints and one that writing was interrupted on."""
    folder = tmp_path_factory.mktemp("run")
    synthesizer.save(folder / "checkpoints" / "step-00000900")
    newest = Synthesizer(synthesizer.generator, synthesizer.info._replace(step=1000), device="cpu")
    newest.save(folder / "checkpoints" / "step-00001000")
    (folder / "checkpoints" / "step-00002000").mkdir()
    (folder / "checkpoints" / ".tmp-step-00003000").mkdir()
    return folder


def ids(seed: int = 0, size: tuple[int, int] = (64, 64), count: int = 14) -> torch.Tensor:
    """Return a label map of squares."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, count, (1, 1, 4, 4), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, size=size)[0, 0].long()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    space = LabelSpace.load("scenes")
    for index, name in enumerate(["a", "b", "town/c", "town/d", "e"]):
        file = tmp_path / "labels" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_label_png(file, ids(index), space)
    return tmp_path / "labels"


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)).astype(int) for p in folder.rglob("*.png")}


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_synthesizer_loads_every_form_of_weights_alike(run: Path, synthesizer: Synthesizer) -> None:
    expected = synthesizer(ids(), seed=3).tensor
    newest = run / "checkpoints" / "step-00001000"
    for source in (run, str(run), run / "checkpoints", newest, newest / "model.safetensors"):
        loaded = Synthesizer.load(source, device="cpu")
        assert loaded.step == 1000
        assert loaded.size == (64, 64)
        assert loaded.label_space == synthesizer.label_space
        assert torch.equal(loaded(ids(), seed=3).tensor, expected)
    assert Synthesizer.load(run / "checkpoints" / "step-00000900", device="cpu").step == 7


def test_loading_and_drawing_leave_the_global_random_numbers_alone(run: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Synthesizer.load(run, device="cpu")(ids(), samples=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_spectral_norm_survives_saving(tmp_path: Path) -> None:
    normed = make(spectral_norm=True)
    loaded = Synthesizer.load(normed.save(tmp_path), device="cpu")
    assert torch.equal(loaded(ids()).tensor, normed(ids()).tensor)


def test_saved_weights_are_safetensors_and_json(tmp_path: Path, synthesizer: Synthesizer) -> None:
    folder = synthesizer.save(tmp_path / "exported")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    description = json.loads((folder / "config.json").read_text())
    assert description["format"] == "lab2pix-2"
    assert description["step"] == 7
    assert set(load_file(folder / "model.safetensors")) == set(synthesizer.generator.state_dict())
    with pytest.raises(OutputError, match="holds a model already"):
        synthesizer.save(folder)
    synthesizer.save(folder, overwrite=True)


def test_synthesizer_save_to_an_unwritable_place_is_refused(tmp_path: Path, synthesizer: Synthesizer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write weights"):
        synthesizer.save(tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gone/deep/er", "there is no"),
        ("empty", "holds neither a run nor"),
        ("young", "is a run without a checkpoint so far"),
        ("old.pth", "is not a .safetensors file"),
        ("lonely", "config.json is missing"),
        ("bare", "model.safetensors is missing"),
    ],
)
def test_synthesizer_load_refuses_folders_without_weights(
    name: str, text: str, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    for folder in ("empty", "young", "lonely", "bare/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "young" / "config.yaml").write_text("")
    (tmp_path / "old.pth").write_bytes(b"")
    (tmp_path / "lonely" / "model.safetensors").write_bytes(b"")
    synthesizer.save(tmp_path / "bare" / "checkpoints" / "step-00000001")
    (tmp_path / "bare" / "checkpoints" / "step-00000001" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=text):
        Synthesizer.load(tmp_path / name, device="cpu")


def test_a_misspelt_run_is_not_looked_for_on_the_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    monkeypatch.setattr(weights, "snapshot_download", lambda *_, **__: pytest.fail("asked the net"))
    with pytest.raises(CheckpointError, match=r"there is no model runs/mine; give .*a run folder"):
        Synthesizer.load("runs/mine")


@pytest.mark.slow
def test_a_shipped_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="there is no model meadows; give a run folder"):
        weights.find("meadows")
    shipped = make().save(tmp_path / "shipped" / "meadows") / "model.safetensors"
    assert weights.find("meadows") == shipped
    with pytest.raises(CheckpointError, match=r"an installed one \(meadows\)"):
        weights.find("medows")
    (tmp_path / "meadows").mkdir()  # a dataset may have the same name
    assert weights.find("meadows") == shipped
    make().save(tmp_path / "meadows")
    assert weights.find("meadows") == Path("meadows/model.safetensors")
    assert Synthesizer.load("meadows").label_space.name == "scenes"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "lab2pix-9"}, "has format 'lab2pix-9'"),
        ({"config": {"generator": {"widht": 3}}}, "does not fit this version of lab2pix .'config.generator.widht'"),
        ({"config": None}, "lacks or garbles the settings"),
        ({"label_space": {"name": "x"}}, "has no classes"),
        ({"config": {"generator": {**TINY, "width": 8}}}, "has weights of another network"),
    ],
)
def test_synthesizer_load_refuses_other_config_json(
    change: dict[str, object], text: str, run: Path, tmp_path: Path
) -> None:
    source = run / "checkpoints" / "step-00001000"
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    description = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**description, **change}))
    with pytest.raises((CheckpointError, LabelError), match=text) as error:
        Synthesizer.load(tmp_path, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_synthesizer_load_names_damaged_files(name: str, run: Path, tmp_path: Path) -> None:
    for file in (run / "checkpoints" / "step-00001000").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 100 if file.name == name else None])
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        Synthesizer.load(tmp_path, device="cpu")


def test_synthesizer_load_refuses_another_label_space(run: Path) -> None:
    assert Synthesizer.load(run, device="cpu", expect_label_space="scenes").step == 1000
    with pytest.raises(CheckpointError, match="trained with label space 'scenes' of 14 classes, not with 'cityscapes'"):
        Synthesizer.load(run, device="cpu", expect_label_space="cityscapes")


# --- pictures --------------------------------------------------------------------------------------------------------


def test_seed_and_sample_decide_the_generated_image(synthesizer: Synthesizer) -> None:
    four = synthesizer(ids(), seed=1, samples=4).tensor
    assert four.shape == (4, 3, 64, 64)
    assert four.dtype == torch.uint8
    assert torch.equal(four[:2], synthesizer(ids(), seed=1, samples=2).tensor)
    assert torch.equal(four, synthesizer(ids(), seed=1, samples=4).tensor)
    assert not torch.equal(four[0], four[1])
    assert not torch.equal(four[0], synthesizer(ids(), seed=2).tensor[0])


def test_noise_is_the_same_on_every_machine(synthesizer: Synthesizer) -> None:
    assert synthesizer.noise(3, 1)[:3].tolist() == pytest.approx(synthesizer.noise(3, 1)[:3].tolist())
    rows = torch.stack([synthesizer.noise(seed, sample) for seed in range(40) for sample in range(5)])
    assert abs(rows.mean()) < 0.1
    assert abs(rows.std() - 1) < 0.1
    assert len({tuple(row.tolist()) for row in rows}) == 200


@pytest.mark.slow
@pytest.mark.parametrize("edges", [False, True])
def test_generated_images_do_not_depend_on_batch_or_order(edges: bool) -> None:
    synthesizer = make(edges=edges)
    batches = [synthesizer.read(ids(index)) for index in range(4)]
    borders = torch.cat([batch.edges for batch in batches]) if edges else None
    noise = synthesizer.noise_samples(0, 4)
    together = synthesizer.generate(Batch(torch.cat([batch.label for batch in batches]), edges=borders), noise)
    for index in (2, 0, 3, 1):
        assert torch.equal(together[index], synthesizer.generate(batches[index], noise[index : index + 1])[0])


def test_synthesizer_accepts_every_form_of_label_map(tmp_path: Path, synthesizer: Synthesizer) -> None:
    label = ids()
    expected = synthesizer(label).tensor
    space = synthesizer.label_space
    write_label_png(tmp_path / "palette.png", label, space)
    colors = np.ascontiguousarray(space.to_colors(label).permute(1, 2, 0).numpy())
    gray = label.to(torch.uint8).numpy()
    Image.fromarray(colors).save(tmp_path / "colors.png")
    forms = [
        label.to(torch.int32),
        label.numpy(),
        gray,
        label.numpy().astype(np.uint16),
        tmp_path / "palette.png",
        str(tmp_path / "palette.png"),
        tmp_path / "colors.png",
        Image.open(tmp_path / "palette.png"),
        Image.fromarray(colors),
        Image.fromarray(gray),
    ]
    for form in forms:
        assert torch.equal(synthesizer(form).tensor, expected)


def test_labels_are_resized_to_the_training_size_or_kept(synthesizer: Synthesizer) -> None:
    large = ids(size=(128, 192))
    assert synthesizer(large).tensor.shape == (1, 3, 64, 64)
    assert torch.equal(synthesizer(large).tensor, synthesizer(ids()).tensor)
    assert synthesizer(large, keep_size=True).tensor.shape == (1, 3, 128, 192)
    assert synthesizer(ids(size=(100, 60)), keep_size=True).tensor.shape == (1, 3, 100, 60)
    with pytest.raises(ConfigError, match=r"100x16.*multiples of 32.*100x17"):
        synthesizer(ids(size=(100, 16)), keep_size=True)


def test_sizes_between_the_multiples_are_padded_by_reflection_and_cropped(synthesizer: Synthesizer) -> None:
    label = ids(size=(96, 128))
    label[80:] = label[63:79].flip(0)  # the reflection at row 79
    whole = synthesizer(label, keep_size=True).tensor
    assert torch.equal(synthesizer(label[:80], keep_size=True).tensor, whole[:, :, :80])


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (torch.full((64, 64), 14), "holds id 14, but label space 'scenes' has 0 to 13"),
        (torch.full((64, 64), -1), "holds id -1"),
        (torch.zeros(3, 64, 64, dtype=torch.long), "must be whole numbers"),
        (torch.zeros(64, 64), "must be whole numbers"),
        (np.full((64, 64), 0.5), "must be whole numbers"),
        (torch.zeros(0, 64, dtype=torch.long), "is empty"),
    ],
)
def test_synthesizer_refuses_what_is_no_label_map(label: torch.Tensor, text: str, synthesizer: Synthesizer) -> None:
    with pytest.raises(LabelError, match=text):
        synthesizer(label)


def test_interpolation_starts_and_ends_at_the_seeds_pictures(synthesizer: Synthesizer) -> None:
    way = synthesizer.interpolate(ids(), 3, 8, steps=5).tensor
    assert way.shape == (5, 3, 64, 64)
    assert torch.equal(way[0], synthesizer(ids(), seed=3).tensor[0])
    assert torch.equal(way[-1], synthesizer(ids(), seed=8).tensor[0])
    noise = synthesizer.interpolate_noise(3, 8, 5)
    lengths = noise.norm(dim=1)
    assert lengths.min() > 0.99 * min(lengths[0], lengths[-1])
    assert synthesizer.interpolate_noise(4, 4, 3).unique(dim=0).shape[0] == 1
    parts = torch.tensor([1.0, 0.25, 0.0], dtype=torch.float64)
    assert torch.equal(synthesizer.slerp(3, 8, parts), noise[[4, 1, 0]])
    with pytest.raises(ConfigError, match="steps is 1 but must be 2 or more"):
        synthesizer.interpolate(ids(), 3, 8, steps=1)
    with pytest.raises(ConfigError, match="samples is 0 but must be 1 or more"):
        synthesizer(ids(), samples=0)


def test_a_generator_without_noise_draws_one_picture() -> None:
    silent = make(input="label")
    assert torch.equal(silent(ids(), seed=1).tensor, silent(ids(), seed=2).tensor)
    for ask in (lambda: silent(ids(), samples=2).tensor, lambda: silent.interpolate(ids(), 1, 2).tensor):
        with pytest.raises(ConfigError, match="takes no noise"):
            ask()


def test_instance_borders_come_from_the_instance_map_or_the_classes(tmp_path: Path) -> None:
    synth = make(edges=True)
    flat = torch.zeros(64, 64, dtype=torch.long)
    things = torch.zeros(64, 64, dtype=torch.long)
    things[20:40, 20:40] = 26001
    Image.fromarray(things.numpy().astype(np.uint16)).save(tmp_path / "things.png")
    assert synth.read(flat).edges.sum() == 0
    assert synth.read(flat, instances=things).edges.sum() > 0
    assert not torch.equal(synth(flat).tensor, synth(flat, instances=things).tensor)
    assert torch.equal(synth(flat, instances=things).tensor, synth(flat, instances=tmp_path / "things.png").tensor)
    with pytest.raises(DataError, match="same size"):
        synth(flat, instances=things[:32])


def test_synthesizer_refuses_weights_that_are_not_finite() -> None:
    broken = make()
    with torch.no_grad():
        next(broken.generator.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        broken(ids())


def test_synthesizer_load_refuses_an_unknown_device(run: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        Synthesizer.load(run, device="gpu")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_generate_folder_keeps_sub_folders_and_skips_existing_files(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    out = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    report = generate_folder(synthesizer, labels, out, on_progress=lambda *a: seen.append(a))
    assert report.ok
    assert len(report.written) == 5
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)
    assert sorted(pictures(out)) == ["a.png", "b.png", "e.png", "town/c.png", "town/d.png"]
    assert str(report) == f"5 images written to {out}"
    for name, index in (("a", 0), ("town/d", 3)):
        expected = synthesizer(ids(index)).tensor[0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(pictures(out)[f"{name}.png"] - expected).max() <= 1
    (out / "a.png").write_bytes(b"mine")
    (out / "b.png").unlink()
    again = generate_folder(synthesizer, labels, out)
    assert (len(again.written), len(again.skipped)) == (1, 4)
    assert "--overwrite" in str(again)
    assert (out / "a.png").read_bytes() == b"mine"
    anew = generate_folder(synthesizer, labels, out, overwrite=True)
    assert (len(anew.written), len(anew.skipped)) == (5, 0)
    assert (out / "a.png").read_bytes() != b"mine"
    assert not list(out.rglob(".*"))


@pytest.mark.slow
def test_generate_folder_does_not_depend_on_batch_order_or_processes(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_folder(synthesizer, labels, tmp_path / "one", samples=2, batch_size=1)
    generate_folder(synthesizer, labels, tmp_path / "many", samples=2, batch_size=7)
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        generate_folder(synthesizer, labels, tmp_path / "shared", samples=2)
    one, many, shared = (pictures(tmp_path / name) for name in ("one", "many", "shared"))
    assert list(one) and sorted(one) == sorted(many) == sorted(shared)
    assert "town/c_1.png" in one
    for name, picture in one.items():
        assert (picture == many[name]).all()
        assert (picture == shared[name]).all()


def test_generate_folder_interpolates_a_single_file(labels: Path, tmp_path: Path, synthesizer: Synthesizer) -> None:
    generate_folder(synthesizer, labels / "a.png", tmp_path / "out", interpolate=(1, 2), steps=3)
    assert sorted(pictures(tmp_path / "out")) == ["a_000.png", "a_001.png", "a_002.png"]


def test_generate_folder_names_unreadable_label_maps_and_makes_the_rest(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    (labels / "torn.png").write_bytes((labels / "a.png").read_bytes()[:60])
    Image.fromarray(np.full((64, 64), 99, dtype=np.uint8)).save(labels / "alien.png")
    report = generate_folder(synthesizer, labels, tmp_path / "out")
    assert not report.ok
    assert len(report.written) == 5
    assert sorted(path.name for path, _ in report.failed) == ["alien.png", "torn.png"]
    text = str(report)
    assert "2 label maps could not be used:" in text
    assert f"{labels / 'alien.png'} holds id 99" in text


@pytest.mark.slow
def test_generate_folder_writes_long_names_and_the_rest_where_one_is_too_long(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    write_label_png(labels / f"{'x' * 249}.png", ids(), synthesizer.label_space)
    write_label_png(labels / f"{'y' * 251}.png", ids(), synthesizer.label_space)
    assert generate_folder(synthesizer, labels, tmp_path / "one").ok
    report = generate_folder(synthesizer, labels, tmp_path / "two", samples=2)
    assert len(report.written) == 12 and f"{'x' * 249}_1.png" in pictures(tmp_path / "two")
    assert [path.name[:3] for path, _ in report.failed] == ["yyy"]  # one label map, although two images fail
    assert "cannot write" in str(report) and "name too long" in str(report)


def test_generate_folder_takes_mixed_sizes_where_they_are_kept(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    write_label_png(labels / "wide.png", ids(size=(64, 96)), synthesizer.label_space)
    write_label_png(labels / "odd.png", ids(size=(64, 90)), synthesizer.label_space)
    write_label_png(labels / "thin.png", ids(size=(64, 9)), synthesizer.label_space)
    report = generate_folder(synthesizer, labels, tmp_path / "out", keep_size=True)
    assert pictures(tmp_path / "out")["wide.png"].shape == (64, 96, 3)
    assert pictures(tmp_path / "out")["odd.png"].shape == (64, 90, 3)
    [(path, reason)] = report.failed
    assert path.name == "thin.png"
    assert "64x17" in reason
    assert f"{path}: " in str(report)
    assert "resized" not in str(report)
    resized = generate_folder(synthesizer, labels / "wide.png", tmp_path / "resized")
    assert "1 label map resized to 64x64 (--keep-size keeps their size)" in str(resized)


def test_one_label_map_that_cannot_be_read_is_an_error_at_once(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    (labels / "torn.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"torn\.png"):
        generate_folder(synthesizer, labels / "torn.png", tmp_path / "out")


def test_bare_ids_are_taken_on_request_only(tmp_path: Path, synthesizer: Synthesizer) -> None:
    gray, ramp = Image.fromarray(ids().numpy().astype(np.uint8)), Image.new("P", (8, 8), 3)
    ramp.putpalette([value for level in range(256) for value in (level, level, level)])
    write_label_png(tmp_path / "own.png", ids(), synthesizer.label_space)
    for name, image in (("gray", gray), ("ramp", ramp)):
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(LabelError, match=rf"{name}\.png holds class numbers, .*\(0 sky, .*--label-space scenes"):
            generate_folder(synthesizer, tmp_path / f"{name}.png", tmp_path / "out", allow_bare_ids=False)
    assert generate_folder(synthesizer, tmp_path / "own.png", tmp_path / "out", allow_bare_ids=False).ok
    assert generate_folder(synthesizer, tmp_path / "gray.png", tmp_path / "out").ok


def test_ids_are_those_of_own_runs_and_of_formats_with_the_same_label_space(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, cityscapes = LabelSpace.load("scenes"), LabelSpace.load("cityscapes")
    assert has_known_values(run, "folder", scenes)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()  # a dataset of the model's name
    assert not has_known_values("scenes", "folder", scenes)
    assert not has_known_values("scenes", "cityscapes", scenes)
    assert has_known_values("org/model", "cityscapes", cityscapes)
    assert not has_known_values("org/model", "nonsense", cityscapes)


def test_home_folder_is_expanded(tmp_path: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_label_png(tmp_path / "a.png", ids(), synthesizer.label_space)
    synthesizer.save("~/model")
    assert generate_folder(str(tmp_path / "model"), "~/a.png", "~/out").written == [tmp_path / "out" / "a.png"]


def test_several_label_maps_become_files_of_one_folder(labels: Path, tmp_path: Path, synthesizer: Synthesizer) -> None:
    files = sorted(labels.glob("*.png"))[:2]
    assert len(files) == 2
    report = generate_folder(synthesizer, files, tmp_path / "out")
    assert sorted(path.name for path in report.written) == [file.name for file in files]
    with pytest.raises(DataError, match="would both become"):
        generate_folder(synthesizer, [labels, files[0]], tmp_path / "other")


def test_generate_folder_reads_a_dataset_by_its_format(tmp_path: Path) -> None:
    synth = make("cityscapes", edges=True)
    folder = tmp_path / "set" / "gtFine" / "val" / "ulm"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((64, 64), 7, dtype=np.uint8)).save(folder / "ulm_1_gtFine_labelIds.png")
    Image.fromarray(np.full((64, 64), 7, dtype=np.uint16)).save(folder / "ulm_1_gtFine_instanceIds.png")
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(folder / "ulm_1_gtFine_color.png")
    report = generate_folder(synth, tmp_path / "set", tmp_path / "out", format="cityscapes", split="val")
    assert report.ok
    assert list(pictures(tmp_path / "out")) == ["ulm/ulm_1.png"]


def test_generate_folder_refuses_unsafe_output_folders(labels: Path, tmp_path: Path, synthesizer: Synthesizer) -> None:
    before = {path: path.read_bytes() for path in labels.rglob("*.png")}
    for source, out in ((labels, labels), (labels, labels / "made"), (labels / "a.png", labels)):
        with pytest.raises(OutputError, match="among the label maps"):
            generate_folder(synthesizer, source, out, overwrite=True)
    assert {path: path.read_bytes() for path in labels.rglob("*.png")} == before
    with pytest.raises(OutputError, match=r"x\.PNG is named like an image, .*give a folder such as .*/x$"):
        generate_folder(synthesizer, labels / "a.png", tmp_path / "x.PNG")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        generate_folder(synthesizer, labels, tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        generate_folder(synthesizer, labels, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_generate_folder_refuses_name_collisions_and_empty_folders(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer
) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="Found no label maps"):
        generate_folder(synthesizer, tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match="no file or folder"):
        generate_folder(synthesizer, tmp_path / "gone", tmp_path / "out")
    Image.new("RGB", (64, 64)).save(labels / "a.jpg")
    with pytest.raises(DataError, match="share their name"):
        generate_folder(synthesizer, labels, tmp_path / "out")


def test_write_picture_is_atomic(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        generate_folder(synthesizer, labels, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_generate_folder_out_of_memory_names_the_batch_size(
    labels: Path, tmp_path: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Synthesizer, "generate", greedy)
    with pytest.raises(Exception, match="lower --batch-size"):
        generate_folder(synthesizer, labels, tmp_path / "out", batch_size=2)


# --- three sizes from one pass ---------------------------------------------------------------------------------------


def test_generate_pyramid_runs_the_generator_once(progressive: Synthesizer, synthesizer: Synthesizer) -> None:
    batch, noise = progressive.read(ids()), progressive.noise_samples(0, 1)
    images = progressive.generate_pyramid(batch, noise)
    assert [tuple(image.shape) for image in images] == [(1, 3, 64, 64), (1, 3, 32, 32), (1, 3, 16, 16)]
    assert torch.equal(images[0], progressive.generate(batch, noise))
    with pytest.raises(ConfigError, match=r"generates images of one size; omit --scales"):
        synthesizer.generate_pyramid(batch, noise)


@pytest.mark.slow
def test_generate_folder_writes_scales_next_to_each_other(
    labels: Path, tmp_path: Path, progressive: Synthesizer
) -> None:
    out = tmp_path / "out"
    assert len(generate_folder(progressive, labels, out).written) == 5
    alone = pictures(out)
    (out / "a.png").write_bytes(b"mine")
    report = generate_folder(progressive, labels, out, scales=True)
    assert (len(report.written), len(report.skipped)) == (10, 5)
    assert (out / "a.png").read_bytes() == b"mine"
    (out / "b_x2.png").unlink()
    report = generate_folder(progressive, labels, out, scales=True)
    assert (report.written, len(report.skipped)) == ([out / "b_x2.png"], 14)
    report = generate_folder(progressive, labels, out, scales=True, overwrite=True)
    assert (len(report.written), len(report.skipped)) == (15, 0)
    made = pictures(out)
    assert len(made) == 15
    assert {made[f"town/c{end}.png"].shape for end in ("", "_x2", "_x1")} == {(64, 64, 3), (32, 32, 3), (16, 16, 3)}
    for name, picture in alone.items():
        assert np.abs(picture - made[name]).max() <= 1
    x1 = progressive.generate_pyramid(progressive.read(ids(2)), progressive.noise_samples(0, 1))[2][0]
    expected = ((x1 + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(made["town/c_x1.png"] - expected).max() <= 1


def test_generate_folder_names_scales_of_samples_and_interpolations(
    labels: Path, tmp_path: Path, progressive: Synthesizer
) -> None:
    generate_folder(progressive, labels / "a.png", tmp_path / "two", samples=2, scales=True)
    names = ["a_0.png", "a_0_x1.png", "a_0_x2.png", "a_1.png", "a_1_x1.png", "a_1_x2.png"]
    assert sorted(pictures(tmp_path / "two")) == names
    generate_folder(progressive, labels / "a.png", tmp_path / "way", interpolate=(1, 2), steps=2, scales=True)
    assert {"a_000.png", "a_001_x2.png"} <= set(pictures(tmp_path / "way"))


def test_generate_folder_does_not_overwrite_an_image_with_a_scale(
    labels: Path, tmp_path: Path, progressive: Synthesizer
) -> None:
    write_label_png(labels / "a_x2.png", ids(5), progressive.label_space)
    generate_folder(progressive, labels, tmp_path / "out")
    with pytest.raises(DataError, match=r"label maps a and a_x2 would both become .*a_x2\.png; rename"):
        generate_folder(progressive, labels, tmp_path / "scales", scales=True)
    assert not (tmp_path / "scales").exists()


@pytest.mark.slow
def test_generate_command_writes_scales(
    labels: Path, tmp_path: Path, progressive: Synthesizer, synthesizer: Synthesizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for synth, name, code in ((progressive, "v1", 0), (synthesizer, "v2", 2)):
        weights_folder = synth.save(tmp_path / name)
        words = [
            "generate",
            str(weights_folder),
            str(labels / "a.png"),
            "--out",
            str(tmp_path / f"{name}-out"),
            "--scales",
        ]
        with pytest.raises(SystemExit) as exit_info:
            cli.main([*words, "--device", "cpu"])
        assert exit_info.value.code == code
    assert sorted(pictures(tmp_path / "v1-out")) == ["a.png", "a_x1.png", "a_x2.png"]
    errors = capsys.readouterr().err
    assert "omit --scales" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "v2-out").exists()


def test_drawings_are_read_as_in_training(tmp_path: Path) -> None:
    synth = make("sketch", method="lab2pix-v1", encoder="sketch", input="label", modulation="spade")
    light = Synthesizer(
        synth.generator,
        synth.info._replace(
            config=synth.config.model_copy(
                update={"data": synth.config.data.model_copy(update={"sketch": SketchConfig(lines="light")})}
            )
        ),
        device="cpu",
    )
    drawing = np.full((64, 64), 255, dtype=np.uint8)
    drawing[20:24] = 0
    (tmp_path / "drawings").mkdir()
    Image.fromarray(drawing).save(tmp_path / "drawings" / "a.png")
    for source in (tmp_path / "drawings" / "a.png", Image.fromarray(drawing)):
        assert synth.read(source).label.float().mean() < 0.1
        assert light.read(source).label.float().mean() > 0.9
    generate_folder(light, tmp_path / "drawings", tmp_path / "out")
    expected = light(tmp_path / "drawings" / "a.png").tensor[0].permute(1, 2, 0).numpy()
    assert np.abs(pictures(tmp_path / "out")["a.png"] - expected).max() <= 1


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_save_pretrained_writes_a_model_card(tmp_path: Path, synthesizer: Synthesizer) -> None:
    synthesizer.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "library_name: lab2pix" in card
    assert "Synthesizer(" in card
    loaded = Synthesizer.from_pretrained(str(tmp_path / "model"), device="cpu")
    assert torch.equal(loaded(ids(), seed=2).tensor, synthesizer(ids(), seed=2).tensor)


def test_synthesizer_pushes_to_and_loads_from_the_hub(
    tmp_path: Path, synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    use_folders_as_hub(hub, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert synthesizer.push_to_hub("someone/scenes").endswith("/commit/1")
    assert (hub / "someone/scenes" / "README.md").exists()
    loaded = Synthesizer.load("someone/scenes", device="cpu")
    assert torch.equal(loaded(ids()).tensor, synthesizer(ids()).tensor)
    with pytest.raises(CheckpointError, match=r"no folder someone/else.*Hugging Face hub \(404 Client Error\)"):
        Synthesizer.load("someone/else")
    (hub / "someone/scenes/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        Synthesizer.load("someone/scenes")
