"""The shipped mix of hub text is the published recipe: right shares, every file in its source, no test data."""

from pathlib import Path

import orjson
import pytest
from omegaconf import OmegaConf

from data.config import DataConfig
from data.fetch.roots import LISTING_NAME, open_root

MATH = "data/math/"
# One file or two of every folder of allenai/dolmino-mix-1124, and the source that each belongs to.
FOLDERS = {
    "data/dclm/0000/dclm-0000.json.zst": "dclm",
    "data/dclm/0246/dclm-0001.json.zst": "dclm",
    "data/flan/tulu_flan-0047.json.gz": "flan",
    "data/pes2o/pes2o-0025.json.gz": "pes2o",
    "data/wiki/wiki-0000.json.gz": "wiki",
    "data/stackexchange/stackexchange-0000.json.gz": "stackexchange",
    f"{MATH}codesearchnet-owmfilter/go/0000.jsonl.gz": None,
    f"{MATH}dolmino_math_synth/basic_math/part-0.jsonl": "basic_math",
    f"{MATH}dolmino_math_synth/gsm8k-synth/resample_v1_6x/part-0.jsonl": "gsm8k_synth",
    f"{MATH}dolmino_math_synth/gsm_mind/debate/part-0.jsonl": "gsm_mind",
    f"{MATH}gsm8k/main/train/0.jsonl.zst": "gsm8k",
    f"{MATH}gsm8k/socratic/train/0.jsonl.zst": "gsm8k",
    f"{MATH}gsm8k/socratic/test/0.jsonl.zst": None,
    f"{MATH}mathcoder2-synthmath/ajibawa-2023/0.jsonl": "mathcoder2_ajibawa",
    f"{MATH}mathcoder2-synthmath/m-a-p_Matrix/filtered-math/book_math.0000.0000.jsonl": "mathcoder2_books",
    f"{MATH}metamath-owmfilter/0000.jsonl.gz": "metamath",
    f"{MATH}tinyGSM-MIND/2students/tiny_gsm_inline_part001.000000.jsonl.gz": "tinygsm_2students",
    f"{MATH}tinyGSM-MIND/problem-solving/tiny_gsm_inline_part001.000000.jsonl.gz": "tinygsm_mind",
    f"{MATH}tulu_math/personahub_interm_alg/train_0000.jsonl": "tulu_algebra",
    f"{MATH}tulu_math/personahub_math_grade/train_0000.jsonl": "tulu_grade_math",
    f"{MATH}tulu_math/personahub_math_v5/train_0000.jsonl": "tulu_math",
}


@pytest.fixture
def mix() -> DataConfig:
    path = Path(__file__).parents[2] / "configs/data/dolmino-50b.yaml"
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(path)))
    assert isinstance(config, DataConfig)
    config.validate()
    return config


def test_each_file_of_the_hub_is_in_its_source_and_the_test_split_in_none(mix: DataConfig, tmp_path: Path) -> None:
    listing = {name: {"bytes": 1, "sha256": None} for name in FOLDERS}
    pinned = {"address": mix.root, "root": mix.root, "complete": True, "files": listing}
    (tmp_path / LISTING_NAME).write_bytes(orjson.dumps(pinned))
    root = open_root(mix.root, str(tmp_path))
    found = {
        file.name: name for name, source in mix.sources.items() for file in root.find(source.files, f"sources.{name}")
    }
    assert found == {name: source for name, source in FOLDERS.items() if source is not None}
    assert set(found.values()) == set(mix.sources)


def test_shares_are_those_of_the_published_50b_mix(mix: DataConfig) -> None:
    total = sum(source.weight for source in mix.sources.values())
    shares = {name: 100 * source.weight / total for name, source in mix.sources.items()}
    published = {"dclm": 47.2, "flan": 16.6, "pes2o": 5.85, "wiki": 7.11, "stackexchange": 2.45}
    for name, share in published.items():
        assert shares[name] == pytest.approx(share, abs=0.05), name
    assert sum(share for name, share in shares.items() if name not in published) == pytest.approx(20.8, abs=0.05)
    assert total == pytest.approx(51.47, abs=0.01)
