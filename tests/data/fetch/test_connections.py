"""What a server is asked for at an address is what `requests` would ask for."""

import requests
from hypothesis import example, given
from hypothesis import strategies as st

from data.fetch.connections import PLAIN_PATH, _target


@example("a/../b")
@example("a//b")
@example("a/./b")
@example(".a")
@example("a%2e/..")
@example("a b?c=d#e")
@example("")
@given(st.text("ab0/.-_~%?#&=+: é\\", max_size=12))
def test_the_path_that_is_asked_for_is_that_of_requests(path: str) -> None:
    request = requests.PreparedRequest()
    request.prepare_url(f"http://host:80/{path}", None)
    assert _target(f"http://host:80/{path}", {}) == request.path_url


def test_paths_of_data_files_need_no_parser() -> None:
    assert PLAIN_PATH.fullmatch(
        "/preprocessed/proof-pile-2/v0_decontaminated/algebraic-stack/train/allenai/part-00-00000.npy"
    )
    assert _target("http://host/a/b.npy", {"http": "http://proxy"}) == "http://host/a/b.npy"
