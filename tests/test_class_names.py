"""Classes matched by name, and the map from a model's labels to the categories of a file."""

from __future__ import annotations

import pytest

from gfl.class_names import list_names, map_classes, match_names
from gfl.errors import InputError

MODEL = ("cat", "dog", "bus")


@pytest.mark.parametrize(
    ("wanted", "offered", "places"),
    [
        (("a", "b"), ("b", "a"), (1, 0)),
        (("a",), (), (None,)),
        (("RBC",), ("rbc", "RBC"), (1,)),  # the exact one wins
        (("RBC ", "rbc"), ("rbc", "RBC"), (1, 0)),  # and what is left is matched loosely
        (("RBC",), ("rbc", " Rbc"), (None,)),  # two would do: neither is taken
        (("a", "a", "a"), ("a", "x", "a"), (0, 2, None)),
    ],
)
def test_names_are_matched_exactly_and_then_without_case(
    wanted: tuple[str, ...], offered: tuple[str, ...], places: tuple[int | None, ...]
) -> None:
    assert match_names(wanted, offered) == places


def test_map_follows_names_and_keeps_the_files_ids() -> None:
    found = map_classes(MODEL, {3: "Dog", 9: "cat"}, "val.json")
    assert found.category_ids == (9, 3, None)
    assert found.notes == (
        "class 'dog' of the model is taken for 'Dog' of val.json",
        "1 of the model's 3 classes are not counted, for val.json has no class for them: bus",
    )


def test_given_names_win_and_several_may_stand_for_one() -> None:
    file = {1: "animal", 2: "bus"}
    assert map_classes(MODEL, file, "f", ("cat=animal", "dog = animal")).category_ids == (1, 1, 2)
    assert map_classes(("a=b", "c"), {1: "x", 2: "c"}, "f", ("a=b=x",)).category_ids == (1, 2)
    assert map_classes(MODEL, {1: "cat"}, "f", ("dog=", "bus=")).category_ids == (1, None, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("cat",), "expected 'model name=file name'"),
        (("cst=animal",), "names 'cst', which is no class of the model; did you mean 'cat'?"),
        (("cat=animl",), "names 'animl', which is no class of f; did you mean 'animal'?"),
        (("cat=animal", "cat="), "twice for the class 'cat'"),
        (("cat=animal",), "f has tram, which the model does not know"),
    ],
)
def test_map_that_cannot_be_is_refused(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        map_classes(MODEL, {1: "animal", 2: "tram"}, "f", given)
    assert said in str(caught.value)


def test_class_that_is_left_out_but_is_in_the_file_is_refused() -> None:
    with pytest.raises(InputError, match="f has cat, for which --class_map leaves no class of the model"):
        map_classes(MODEL, {1: "cat", 2: "bus"}, "f", ("cat=",))


def test_long_lists_are_cut_and_counted() -> None:
    assert list_names(map(str, range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
