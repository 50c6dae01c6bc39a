"""What belongs together is one group, over many links and under several names."""

from collections.abc import Sequence

import polars as pl

from video.splitting.groups import effective_groups, linked_groups


def joined(*rows: tuple[str, str | None], links: Sequence[tuple[int, int]] = ()) -> list[str]:
    schema = {"sha256": pl.String, "group": pl.String}
    return effective_groups(pl.DataFrame(rows, schema=schema, orient="row"), links)


def test_videos_of_a_group_stay_in_it() -> None:
    assert joined(("a", "g"), ("b", "g"), ("c", "h")) == ["g", "g", "h"]


def test_videos_without_a_group_are_groups_of_their_own() -> None:
    groups = joined(("a", None), ("b", None), ("c", "g"))

    assert len(set(groups)) == 3


def test_exact_copies_without_a_group_are_one_group() -> None:
    first, second = joined(("a", None), ("a", None))

    assert first == second


def test_exact_copies_under_two_names_join_the_two_groups() -> None:
    assert joined(("a", "h"), ("b", "h"), ("a", "g"), ("c", "g")) == ["g"] * 4


def test_groups_are_joined_over_many_links() -> None:
    chain = [(str(i // 2), f"g{(i + 1) // 2}") for i in range(40)]

    assert set(joined(*chain)) == {"g0"}


def test_a_video_without_a_group_joins_the_group_of_its_copy() -> None:
    assert joined(("a", None), ("b", "g"), ("a", "g")) == ["g", "g", "g"]


def test_joined_groups_have_the_same_names_in_every_order_of_the_rows() -> None:
    rows = [("a", "h"), ("a", "g"), ("b", "g"), ("b", "k"), ("c", None), ("d", "m")]
    expected = dict(zip(rows, joined(*rows), strict=True))

    for shift in range(len(rows)):
        turned = rows[shift:] + rows[:shift]
        assert dict(zip(turned, joined(*turned), strict=True)) == expected


def test_a_link_joins_the_groups_of_its_two_videos_under_the_smaller_name() -> None:
    rows = [("a", "k"), ("b", "k"), ("c", "h"), ("d", None)]

    assert joined(*rows, links=[(1, 2)])[:3] == ["h"] * 3
    assert joined(*rows, links=[(3, 2)])[2:] == ["h"] * 2


def test_links_between_videos_without_a_group_make_one() -> None:
    groups = joined(("a", None), ("b", None), ("c", None), links=[(0, 1), (1, 2)])

    assert groups == ["video:a"] * 3


# --- links within an index -----------------------------------------------------------------------


def linked(*rows: tuple[str, str | None], **contents: str) -> list[str | None]:
    """Return the groups of rows (path, group); contents by path without its suffix."""
    schema = {"video_path": pl.String, "group": pl.String}
    known = {f"{name}.mp4": content for name, content in contents.items()}
    return linked_groups(pl.DataFrame(rows, schema=schema, orient="row"), known).to_list()


def test_groups_that_name_one_file_are_linked_however_it_is_spelled() -> None:
    groups = linked(("a.mp4", "h"), ("b.mp4", "h"), ("./a.mp4", "g"), ("c.mp4", "i"))

    assert groups == ["g", "g", "g", "i"]


def test_groups_with_files_of_one_content_are_linked() -> None:
    groups = linked(("a.mp4", "h"), ("b.mp4", "g"), ("c.mp4", "i"), a="1", b="1", c="2")

    assert groups == ["g", "g", "i"]


def test_a_video_without_a_group_has_the_group_it_is_linked_to_or_none() -> None:
    groups = linked(("a.mp4", None), ("b.mp4", "g"), ("c.mp4", None), ("d.mp4", None), a="1", b="1")

    assert groups == ["g", "g", None, None]


def test_links_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [("a.mp4", "h"), ("a.mp4", "i"), ("b.mp4", "i"), ("b.mp4", "g"), ("c.mp4", "k")]

    assert linked(*rows) == ["g", "g", "g", "g", "k"]
    assert linked(*reversed(rows)) == ["k", "g", "g", "g", "g"]
