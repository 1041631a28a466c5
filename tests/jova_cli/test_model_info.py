import struct
from pathlib import Path

import pytest

from diffusers_jova import JoVAPipeline
from jova_cli.main import main
from jova_cli.model_info import count_values, describe_components, front_matter, info_table, licence_lines


def test_info_counts_the_parameters_of_every_component(tiny_pipeline_folder: Path) -> None:
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    described = {entry.name: entry for entry in describe_components(tiny_pipeline_folder)}
    assert set(described) == {name for name, part in pipeline.components.items() if part is not None}
    for name in ("transformer", "vae", "text_encoder"):
        assert described[name].num_parameters == sum(p.numel() for p in getattr(pipeline, name).parameters())
        assert described[name].class_name == type(getattr(pipeline, name)).__name__
    assert described["scheduler"].num_parameters == 0


def test_info_prints_memory_by_number_format(tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(tiny_pipeline_folder)])
    lines = capsys.readouterr().out.splitlines()
    assert all(name in lines[0] for name in ("fp32", "bf16", "fp8", "licence"))
    (total,) = (line for line in lines if line.startswith("total "))
    count, fp32, _, bf16, _, fp8, unit = total.split()[1:]
    assert unit == "kB"
    assert float(fp32) == pytest.approx(4 * int(count.replace(",", "")) / 1e3, abs=0.1)
    assert float(fp32) == pytest.approx(2 * float(bf16), abs=0.2)
    assert float(fp32) == pytest.approx(4 * float(fp8), abs=0.4)


def test_info_prints_the_licence_that_is_stated_closest_to_a_component(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for part in tiny_pipeline_folder.iterdir():
        (folder / part.name).symlink_to(part)
    assert all(entry.licence in ("", "not stated") for entry in describe_components(folder))
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ncomponent_licenses:\n  audio_vae: cc-by-nc-4.0\n---\n# A model\n"
    )
    licences = {entry.name: entry.licence for entry in describe_components(folder)}
    assert licences["vae"] == "apache-2.0"
    assert licences["audio_vae"] == "cc-by-nc-4.0"
    assert licences["scheduler"] == ""
    assert "cc-by-nc-4.0" in info_table(folder)


def test_what_is_no_safetensors_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for name, content in {
        "empty": b"",
        "text": b"no tensors at all",
        "long": struct.pack("<Q", 10**15) + b"{",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"header of `.*{name}` \(safetensors\) must be a JSON object"):
            count_values([tmp_path / name])


@pytest.mark.parametrize(
    ("page", "values"),
    [
        ("", {}),
        ("# A model\n---\na: 1\n---\n", {}),
        ("---\n---\nlicense: mit\n---\n", {}),
        ("---\nlicense: mit\n---\n# A model\n---\n", {"license": "mit"}),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
    ],
)
def test_front_matter_stands_between_the_first_lines_of_dashes(
    page: str, values: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(page.encode())
    assert front_matter(tmp_path) == values


@pytest.mark.parametrize(
    "licence", ["apache-2.0", "foo: bar", "[x]", "ltx-2-community-license-agreement", "Own terms, v1"]
)
def test_a_licence_is_read_as_it_was_written(licence: str, tmp_path: Path) -> None:
    lines = licence_lines({"vae": licence, "vocoder": "not stated"})
    (tmp_path / "README.md").write_text("\n".join(["---", *lines, "---", ""]))
    assert front_matter(tmp_path) == {"component_licenses": {"vae": licence}}
    assert licence_lines({"vae": "not stated"}) == []


@pytest.mark.parametrize("lines", ["a: [", "- a"])
def test_front_matter_that_holds_no_values_is_refused(lines: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{lines}\n---\n")
    with pytest.raises(ValueError, match="the front matter of"):
        front_matter(tmp_path)
