"""gin files and bindings -> `RunConfig`. The only file that knows gin.

gin-config parses, holds and evaluates the bindings. What it lacks is checked here before it sees them: names (with a
did-you-mean), types against the dataclasses of `gfl.settings`, undefined and unused macros, includes relative to the
including file. A user's mistake is an `InputError` that names the binding and its location.

    files, bindings, text --_parse--> _Bindings {name: value, location} --_check--> gin --> RunConfig, config text
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.resources
import importlib.util  # gin-config 0.5.0 uses importlib.util without importing it
import math
import re
import tokenize
import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from gfl.errors import InputError
from gfl.settings import FOLLOWS, IMAGENET, DataConfig, OptimConfig, RunConfig, passed_on

BASE = "base.gin"  # all knobs; read before anything else
KNOB_OWNERS = (RunConfig, DataConfig, OptimConfig)  # each of their plain fields is set by a knob
COMMAND_LINE = "--gin_bindings"
SETTINGS = "gfl.settings"  # the source of what is bound before any file is read
LIKELY_TYPO = 0.85  # difflib's ratio from which an unused name in a file is taken for a mistyped knob
LIKELY_MEANT = 0.75  # the same of a value that is nearly one of those a setting takes; 'tpu' is no 'cpu'
CLASSES = "detector.DetectorConfig.num_classes"  # no setting of a run: the annotation file says it
BACKBONE = "detector.DetectorConfig.backbone"  # the one setting that takes several kinds of others
STORED = "stored config"  # the source of a text that travelled in a checkpoint
MOST_VALUES = 10_000  # that a name may stand for: a few macros in each other are as many as there are bytes of memory
MOST_DEEP = 100  # macros that stand for each other, one inside the other
MOST_SHOWN = 200  # characters of a value in a message
REQUIRED = "gin.REQUIRED"  # gin's constant for "the user must give this"


class ParsedRun(typing.NamedTuple):
    """What a run is made of."""

    run: RunConfig
    config_text: str  # self-contained gin text of every binding, knobs kept; `read_text` rebuilds the run from it
    operative_text: str  # the same with every default that was used
    unused: tuple[str, ...]  # "NAME = value (file:line)" of what files bind and the run does not use
    taken: tuple[str, ...] = ()  # "NAME = value" of what CHECKPOINT's own settings changed


class _Macro(typing.NamedTuple):
    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class _Reference(typing.NamedTuple):
    name: str  # 'resnet.ResNetConfig'
    called: bool

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.called else ''}"


class _Binding(typing.NamedTuple):
    value: object
    source: str  # a file, COMMAND_LINE, or the name of a text
    line: int

    @property
    def location(self) -> str:
        return self.source if self.source == COMMAND_LINE else f"{self.source}:{self.line}"


_Bindings = dict[str, _Binding]  # 'EPOCHS' (a macro) or 'settings.RunConfig.epochs' (a field); later ones win


# ---- public


def read_run(
    gin_files: Sequence[str | Path],
    bindings: Sequence[str] = (),
    stored_text: Callable[[str], str | None] | None = None,
) -> ParsedRun:
    """Read the run files in order, then the bindings of the command line; what comes later wins.

    stored_text: the `config_text` that a checkpoint carries, None where it carries none. With it, and with
    SETTINGS_FROM_CHECKPOINT, the model, the optimiser and the picture sizes of CHECKPOINT's own run are taken wherever
    nothing but base.gin and the file that sets SETTINGS_FROM_CHECKPOINT says otherwise.

    Raises InputError for a missing file, wrong syntax, an unknown name, a wrong type or value, and a knob given on
    the command line that nothing uses.
    """
    table, files_read = _base()
    for name in gin_files:
        _read_file(find_gin_file(name), table, files_read)
    _read_bindings(bindings, table, files_read)
    return _build(table, _take_settings(table, stored_text) if stored_text else ())


def read_text(text: str, bindings: Sequence[str] = ()) -> ParsedRun:
    """Read a `config_text` or `operative_text` again, with further bindings. Raises InputError as `read_run`."""
    table, files_read = _base()
    _read_text(text, STORED, Path(), table, files_read)
    _read_bindings(bindings, table, files_read)
    return _build(table)


def with_setting(text: str, setting: str, field: str, value: object) -> str:
    """An `operative_text` in which a field of a setting has another value, under the knob that sets it if one does.

    Raises InputError as `read_run`.
    """
    table, files_read = _base()
    _read_text(text, STORED, Path(), table, files_read)
    name = f"{_full_class_name(setting, STORED)}.{field}"
    bound = table[name].value
    table[bound.name if isinstance(bound, _Macro) else name] = _Binding(value, SETTINGS, 0)
    return _build(table).operative_text


def without_paths(text: str) -> str:
    """A `config_text` that names no file or folder of this machine: those settings are base.gin's again.

    The rest stays: the model, its sizes, how it was trained. Raises InputError as `read_run`.
    """
    if not text:
        return ""
    table, files_read = _base()
    paths = {name: each for name, each in table.items() if "." in name and _takes_any_text(name)}
    usual = {
        name: table[name] for path in paths.values() if isinstance(path.value, _Macro) for name in (path.value.name,)
    }
    _read_text(text, STORED, Path(), table, files_read)
    table |= paths | usual
    used: set[str] = set()
    for name, binding in table.items():
        if "." in name:
            _resolve(binding.value, (name,), table, used)
    return _build({name: each for name, each in table.items() if "." in name or name in used}).config_text


def run_files() -> tuple[str, ...]:
    """Names of the run files that come with the project."""
    return tuple(sorted(path.name for path in config_folder().glob("*.gin") if path.name != BASE))


def find_gin_file(name: str | Path, folder: Path = Path()) -> Path:
    """The file `name` in `folder`, or else among the project's own.

    Raises InputError when it is missing, with the name that may be meant: one of those, or of a file beside it.
    """
    for path in (folder / name, config_folder() / name):
        if path.is_file():
            return path
    beside = sorted((folder / name).parent.glob("*.gin"))
    known = {own: own for own in run_files()} | {path.name: str(Path(name).parent / path.name) for path in beside}
    near = _near(Path(name).name, known)
    meant = "" if near is None else f"did you mean {known[near]}? "
    raise InputError(
        f"gin file '{name}' does not exist; {meant}expected a path, or one of the project's own: "
        f"{', '.join(run_files())}"
    )


def config_folder(package: Path = Path(__file__).parent) -> Path:
    """The folder of the project's .gin files: gin/ beside the package, or in a wheel the package data gfl.configs."""
    beside = package.parent / "gin"
    if (beside / BASE).is_file():
        return beside
    try:
        packaged = Path(str(importlib.resources.files("gfl.configs").joinpath(BASE)))
    except ModuleNotFoundError:
        packaged = Path()
    if packaged.is_file():
        return packaged.parent
    raise InputError(f"{BASE} is neither in {beside} nor in the package gfl.configs; install the project again")


def load_gin() -> types.ModuleType:
    """The module of gin-config. Raises InputError when it is missing, or hidden by a folder gin/ of run files."""
    mend = "install it with `pip install gin-config`"
    try:
        gin = importlib.import_module("gin")
    except ImportError as error:
        raise InputError(f"gin-config is missing ({error}); {mend}") from error
    if hasattr(gin, "parse_config"):
        return gin
    if file := getattr(gin, "__file__", None):
        raise InputError(f"gin-config is hidden by {file}; remove that file, a folder of .gin files needs none")
    # A folder gin/ without __init__.py on sys.path is imported as an empty namespace package.
    raise InputError(f"gin-config is missing ({', '.join(gin.__path__)} was found in its place); {mend}")


# ---- reading: text -> _Bindings


def _base() -> tuple[_Bindings, set[Path]]:
    """Each setting bound to its knob, the knobs of base.gin, and the files read so far."""
    table: _Bindings = {name: _Binding(value, SETTINGS, 0) for name, value in _wiring()}
    files_read: set[Path] = set()
    _read_file(config_folder() / BASE, table, files_read)
    return table, files_read


def _wiring() -> Iterator[tuple[str, _Macro | _Reference]]:
    """What every field of the settings is bound to: its knob, or the settings that it holds."""
    names: dict[object, str] = {cls: name for name, cls in _setting_classes().items()}
    for name, cls in _setting_classes().items():
        for field in dataclasses.fields(cls):
            factory: object = field.default_factory
            if factory in names:
                yield f"{name}.{field.name}", _Reference(names[factory], called=True)
            elif cls in KNOB_OWNERS:
                yield f"{name}.{field.name}", _Macro(field.metadata.get("knob", field.name.upper()))


def _read_file(path: Path, table: _Bindings, files_read: set[Path]) -> None:
    """Add the bindings of a file to the table."""
    files_read.add(path.resolve())
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows tools write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"gin file '{path}' cannot be read ({error}); expected a UTF-8 text file") from error
    _read_text(text, str(path), path.parent, table, files_read)


def _read_text(text: str, source: str, folder: Path, table: _Bindings, files_read: set[Path]) -> None:
    """Add the bindings of a text to the table; its includes are looked up in `folder`."""
    parser = load_gin().config_parser
    for statement in _parse(text, source):
        if isinstance(statement, parser.IncludeStatement):
            if source == STORED:
                raise InputError(
                    f"{source}:{statement.location.line_num}: include of {statement.filename!r}, expected all settings "
                    "in the text itself; the file of weights was changed, get it again from where it comes"
                )
            path = find_gin_file(statement.filename, folder)
            if path.resolve() not in files_read:  # included twice, it would undo the bindings since the first time
                _read_file(path, table, files_read)
        elif isinstance(statement, parser.ImportStatement):
            _check_import(statement.module, f"{source}:{statement.location.line_num}")
        elif isinstance(statement, parser.BindingStatement):
            binding = _Binding(statement.value, source, statement.location.line_num)
            name = _full_name(statement.scope, statement.selector, statement.arg_name, binding.location)
            if name == CLASSES and source != STORED:
                raise InputError(
                    f"{binding.location}: {statement.selector}.num_classes = {statement.value!r}: the number of "
                    "classes comes from the categories of the annotation file; remove it"
                )
            table[name] = binding._replace(value=_settle(statement.value, binding.location))
    _check_lengths(table)


def _read_bindings(bindings: Sequence[str], table: _Bindings, files_read: set[Path]) -> None:
    """Add the bindings of the command line to the table."""
    for binding in bindings:
        _read_text(binding, COMMAND_LINE, Path(), table, files_read)


class _Delegate:
    """Tells gin's parser what to make of `%NAME` and `@name()`."""

    def macro(self, name: str) -> _Macro:
        return _Macro(name)

    def configurable_reference(self, name: str, evaluate: bool) -> _Reference:
        return _Reference(name, evaluate)


def _parse(text: str, source: str) -> list[object]:
    """gin's statements in `text`; raises InputError with file and line where gin cannot read it."""
    try:
        return list(load_gin().config_parser.ConfigParser(text, _Delegate()))
    except SyntaxError as error:
        line, reason = error.lineno or 1, error.msg
    except (RecursionError, MemoryError):
        raise InputError(f"{source}: its values are nested too deeply to be settings; expected NAME = value") from None
    except tokenize.TokenError as error:
        line, reason = error.args[1][0], error.args[0]
    lines = text.splitlines()
    line = min(line, len(lines))  # an open bracket is noticed past the last line
    got = lines[line - 1].strip()[:200]
    reason = reason.strip().splitlines()[-1].strip().rstrip(".")  # gin puts Python's own complaint in front
    raise InputError(
        f"{_Binding(None, source, line).location}: {got}: {reason}; expected NAME = value, with text in quotes"
    )


def _check_import(module: str, location: str) -> None:
    """Refuse what a config (of a stranger's checkpoint, say) has no reason to import."""
    if module not in {"__gin__.dynamic_registration", *(cls.__module__ for cls in _setting_classes().values())}:
        raise InputError(f"{location}: import of {module}; only settings can be bound, remove the import")


@functools.cache
def _setting_classes() -> dict[str, type]:
    """'settings.RunConfig' -> RunConfig, and so on for every dataclass that its fields hold."""
    found: dict[str, type] = {}
    waiting: list[object] = [RunConfig]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found[f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"] = kind
            waiting += typing.get_type_hints(kind).values()
        waiting += typing.get_args(kind)
    return found


def _full_name(scope: str, selector: str, field: str, location: str) -> str:
    """The name of what a statement binds: a macro's own, or module.Class.field."""
    if not field:
        return f"{scope}/{selector}" if scope else selector
    if scope:
        raise InputError(
            f"{location}: {scope}/{selector}.{field} has a scope, which no setting knows; remove '{scope}/'"
        )
    setting = _full_class_name(selector, location)
    fields = [field.name for field in dataclasses.fields(_setting_classes()[setting])]
    if field not in fields:
        raise InputError(f"{location}: {selector} has no field {field}; {_nearest(field, fields)}")
    return f"{setting}.{field}"


def _full_class_name(selector: str, location: str) -> str:
    """module.Class for Class, module.Class or package.module.Class."""
    for name, cls in _setting_classes().items():
        if f".{cls.__module__}.{cls.__name__}".endswith(f".{selector}"):
            return name
    names = [cls.__name__ for cls in _setting_classes().values()]
    raise InputError(f"{location}: {selector} is no setting; {_nearest(selector.rpartition('.')[2], names)}")


def _settle(value: object, location: str) -> object:
    """Lists as tuples (settings are frozen), references with their full names."""
    if isinstance(value, _Reference):
        return value._replace(name=_full_class_name(value.name, location))
    if isinstance(value, _Macro):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_settle(item, location) for item in value)
    if isinstance(value, int) and value.bit_length() > 64:  # beyond a float, too
        raise InputError(f"{location}: a whole number of {value.bit_length()} bits, expected at most 64; write less")
    return value


def _check_lengths(table: _Bindings) -> None:
    """Refuse macros that would grow beyond all measure when `_resolve` writes out what they stand for."""
    lengths: dict[str, int] = {}
    for name, binding in table.items():
        if binding.source != SETTINGS and _length(binding.value, table, lengths) > MOST_VALUES:
            raise InputError(
                f"{binding.location}: {name} stands for more than {MOST_VALUES} values, expected a setting; write less"
            )


def _length(value: object, table: _Bindings, lengths: dict[str, int], depth: int = 0) -> int:
    """How many values there are in a value with its macros replaced; lengths: of the macros counted so far."""
    if isinstance(value, _Macro):
        if depth > MOST_DEEP:
            raise InputError(f"%{value.name} is nested in more than {MOST_DEEP} other macros, expected fewer")
        if value.name not in lengths:
            lengths[value.name] = 1  # where it is inside itself, `_resolve` says so
            if value.name in table:
                lengths[value.name] = _length(table[value.name].value, table, lengths, depth + 1)
        return lengths[value.name]
    if isinstance(value, tuple) and not isinstance(value, _Reference):
        return 1 + sum(_length(item, table, lengths, depth) for item in value)
    return 1


# ---- what a checkpoint's own run was like


def _take_settings(table: _Bindings, stored_text: Callable[[str], str | None]) -> tuple[str, ...]:
    """Put the settings that CHECKPOINT's run passes on into the table; 'NAME = value' of what that changes."""
    asked, checkpoint = (
        _resolve(table[name].value, (name,), table, set())
        for name in ("settings.RunConfig.settings_from_checkpoint", "settings.RunConfig.checkpoint")
    )
    if asked is not True or not isinstance(checkpoint, str) or checkpoint in IMAGENET:
        return ()
    text = stored_text(checkpoint)
    if text is None:
        return ()
    below = {SETTINGS, str(config_folder() / BASE), table["SETTINGS_FROM_CHECKPOINT"].source} - {COMMAND_LINE}
    taken: list[str] = []
    by_hand: set[str] = set()  # fields that were set to something else than the checkpoint says
    replaced: set[type] = set()  # parts of the checkpoint's model instead of which a run file names others
    names = {cls: name for name, cls in _setting_classes().items()}
    for config, field, part in passed_on(read_text(text).run):
        kind = type(config)
        if kind in replaced:
            continue
        value = _Reference(names[type(part)], called=True) if type(part) in names else part
        setting = names[kind]
        bound = table.get(f"{setting}.{field}")
        name = bound.value.name if bound is not None and isinstance(bound.value, _Macro) else f"{setting}.{field}"
        before = table.get(name)
        if before is not None and before.source not in below:
            if before.value != value:
                by_hand.add(field)
                replaced.add(type(part))
            continue
        if FOLLOWS.get(field) in by_hand:
            continue
        default = getattr(kind, field, None)  # of a part there is none, but it is bound
        if value != (default if before is None else before.value):
            taken.append(f"{name} = {value!r}")
        table[name] = _Binding(value, f"the settings of {checkpoint}", 0)
    return tuple(taken)


# ---- checking: macros and types


def _check(bindings: _Bindings) -> tuple[str, ...]:
    """Check the macros and types of all bindings; returns the unused ones of the files.

    A macro that is nearly a knob is a mistake in a file as on the command line; others may be of use to a further file.
    """
    used: set[str] = set()
    for name, binding in bindings.items():
        if "." in name:
            _check_type(name, _resolve(binding.value, (name,), bindings, used), bindings)
    in_use = _settings_in_use(bindings)
    unused = {
        name: binding
        for name, binding in bindings.items()
        if (name.rpartition(".")[0] not in in_use if "." in name else name not in used)
    }
    knobs = _base()[0] if unused else {}
    for name, binding in unused.items():
        if "." in name and binding.source == COMMAND_LINE:
            raise InputError(
                f"{COMMAND_LINE} '{name} = {_shown(binding.value)}' changes nothing, because the run has {BACKBONE} = "
                f"{bindings[BACKBONE].value}; bind the settings of that one, or remove it"
            )
        if "." not in name and (
            binding.source == COMMAND_LINE or (name not in knobs and _near(name, used, LIKELY_TYPO))
        ):
            raise InputError(_unused_knob(name, binding, used, known=name in knobs))
    of_files = {
        name: each for name, each in unused.items() if each.source not in (str(config_folder() / BASE), SETTINGS)
    }
    return tuple(f"{name} = {each.value!r} ({each.location})" for name, each in of_files.items())


def _settings_in_use(bindings: _Bindings) -> set[str]:
    """The settings that the run holds, one in the other: of the backbones the one that is bound."""
    found: list[str] = [name for name, cls in _setting_classes().items() if cls is RunConfig]
    for setting in found:
        for field in dataclasses.fields(_setting_classes()[setting]):
            bound = bindings.get(name := f"{setting}.{field.name}")
            value = bound and _resolve(bound.value, (name,), bindings, set())
            found += [value.name] if isinstance(value, _Reference) else []
    return set(found)


def _check_type(name: str, value: object, bindings: _Bindings) -> None:
    """Check the resolved value of the field `name` against its annotation; names the knob, if it has one."""
    setting, _, field = name.rpartition(".")
    expected = typing.get_type_hints(_setting_classes()[setting])[field]
    fits = _fits(value, expected)
    if not fits or not _finite(value):
        bound = bindings[name].value
        knob = bound.name if isinstance(bound, _Macro) else name
        given = bindings[knob].location
        wanted = "finite numbers" if fits else _spell(expected)
        meant = _meant(value, expected)
        wanted += "" if meant is None else f", did you mean {meant!r}?"
        raise InputError(f"{knob.partition('.')[2] or knob} = {_shown(value)}: expected {wanted} ({given})")


def _shown(value: object) -> str:
    """A value as a message shows it: no more than a line or two."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _takes_any_text(name: str) -> bool:
    """Whether the field `name` takes text that is no word of its own: the name of a file or folder."""
    setting, _, field = name.rpartition(".")
    expected = typing.get_type_hints(_setting_classes()[setting])[field]
    return str in (expected, *typing.get_args(expected))


def _finite(value: object) -> bool:
    """Whether a value holds no infinity (1e999), which gin cannot write."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, tuple) or all(map(_finite, value))


def _resolve(value: object, trail: tuple[str, ...], bindings: _Bindings, used: set[str]) -> object:
    """The value with its macros replaced; their names are added to `used`. `trail`: the names on the way here."""
    if isinstance(value, tuple) and not isinstance(value, (_Macro, _Reference)):
        return tuple(_resolve(item, trail, bindings, used) for item in value)
    if not isinstance(value, _Macro):
        return value
    location, name = bindings[trail[-1]].location, value.name
    if name == REQUIRED:
        raise InputError(f'{trail[-1]} is required ({location}); give --gin_bindings "{trail[-1]} = ..."')
    if name in trail:
        raise InputError(f"{location}: %{name} is defined by itself; give {name} a value")
    if name not in bindings:
        knobs = [known for known in bindings if "." not in known]
        raise InputError(f"{location}: %{name} is not defined; {_nearest(name, knobs)}")
    used.add(name)
    return _resolve(bindings[name].value, (*trail, name), bindings, used)


def _fits(value: object, expected: object) -> bool:
    """Whether a value may stand where the annotation `expected` does: as mypy has it, but a bool is no number."""
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)  # True == 1, and is another setting
    if isinstance(value, _Reference):
        return value.called and _setting_classes()[value.name] is expected
    if origin is tuple:
        kinds = (args[0],) * len(value) if isinstance(value, tuple) and args[-1] is Ellipsis else args
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else typing.cast(type, expected))


def _meant(value: object, expected: object) -> object:
    """What was likely meant by a value of the wrong type: a word that is nearly the value, or a tuple of such words."""
    words = list(_words(expected))
    if isinstance(value, str):
        near = _near(value, words, LIKELY_MEANT)
        return (near,) if near and typing.get_origin(expected) is tuple else near
    if not isinstance(value, tuple) or typing.get_origin(expected) is not tuple:
        return None
    near_words = [_near(item, words, LIKELY_MEANT) if isinstance(item, str) else None for item in value]
    return tuple(near_words) if all(near_words) else None


def _words(expected: object) -> Iterator[str]:
    """The texts among the values that an annotation names."""
    for arg in typing.get_args(expected):
        if isinstance(arg, str):
            yield arg
        else:
            yield from _words(arg)


def _spell(expected: object) -> str:
    """An annotation as a person writes it: 'int', 'int | tuple[int, int]', "'sgd' | 'adamw'"."""
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_spell, args))
    if origin is typing.Literal:
        return " | ".join(map(repr, args))
    if origin is tuple:
        return f"tuple[{', '.join('...' if arg is Ellipsis else _spell(arg) for arg in args)}]"
    return expected.__name__ if isinstance(expected, type) and not args else str(expected)


def _unused_knob(name: str, binding: _Binding, used: Collection[str], *, known: bool) -> str:
    """What is wrong with a macro that nothing uses; known: base.gin has it."""
    given = f"{binding.location}: {name} = {_shown(binding.value)}"
    if binding.source == COMMAND_LINE:
        given = f"{COMMAND_LINE} '{name} = {_shown(binding.value)}'"
    if known:
        return f"{given} changes nothing, because a run file binds its setting directly; remove one of the two"
    return f"{name} is no knob ({given}); {_nearest(name, used)}"


def _nearest(name: str, names: Collection[str]) -> str:
    """'did you mean NAME?' for the one of `names` that is near in any case of letters, or else all of them."""
    near = _near(name, names)
    return f"did you mean {near}?" if near else f"expected one of {', '.join(sorted(names))}"


def _near(name: str, names: Collection[str], least: float = 0.6) -> str | None:
    """The one of `names` that is nearest in any case of letters, where any is; least: of difflib's ratio."""
    by_lower = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=least)
    return by_lower[near[0]] if near else None


# ---- building: gin evaluates


def _build(table: _Bindings, taken: tuple[str, ...] = ()) -> ParsedRun:
    """Check all bindings and let gin make the run of them."""
    unused = _check(table)
    used = _settings_in_use(table)
    table = {name: each for name, each in table.items() if "." not in name or name.rpartition(".")[0] in used}
    gin = load_gin()
    gin.clear_config()
    try:
        gin.parse_config(_one_text(table))
        run: RunConfig = gin.get_configurable(RunConfig)()
        config_text, operative_text = map(_without_classes, (gin.config_str(), gin.operative_config_str()))
        return ParsedRun(run, config_text, operative_text, unused, taken)
    except ValueError as error:  # of a __post_init__; gin appends the call in which it was raised
        raise InputError(str(error).split("\n  In call to configurable")[0]) from error
    finally:
        gin.clear_config()  # gin's state is global: leave none behind


def _without_classes(text: str) -> str:
    """A text of bindings that can be given as a run file."""
    return re.sub(rf"^{re.escape(CLASSES)} = .*\n", "", text, flags=re.MULTILINE)


def _one_text(bindings: _Bindings) -> str:
    """All bindings as one gin text with dynamic registration."""
    modules = sorted({cls.__module__.rpartition(".")[::2] for cls in _setting_classes().values()})
    lines = ["from __gin__ import dynamic_registration"]
    lines += [f"from {package} import {module}" for package, module in modules]
    lines += [f"{name} = {binding.value!r}" for name, binding in bindings.items()]
    return "\n".join(lines)
