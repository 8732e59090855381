"""The page as one file: nothing in its data can leave the place where it is embedded."""

import json

from report.page import embedded_json


def test_no_string_ends_the_script_that_holds_it() -> None:
    hostile = {"name": "</script><!-- <script>"}
    embedded = embedded_json(hostile)
    assert "<" not in embedded and json.loads(embedded) == hostile
