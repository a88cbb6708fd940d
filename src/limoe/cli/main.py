"""The program `limoe`: find the command, compose its config, run it, print errors.

Exit codes: 0 done, 1 a bug in limoe (with traceback), 2 an error that the user can fix (one line; with
LIMOE_TRACEBACK=1 a traceback), 130 interrupted, 143 terminated.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig

import limoe
from limoe.cli import arguments
from limoe.cli.commands import Command, all_commands
from limoe.config.errors import Known, composed_keys, did_you_mean, explain, explained
from limoe.config.overrides import quoted
from limoe.config.places import config_dir, own_config_dir, register_resolvers
from limoe.errors import ConfigError, one_line

FAULT, USER, INTERRUPTED, TERMINATED = 1, 2, 130, 143
_VERSION_BASE = "1.3"


class JobFailed(Exception):
    """A job of a sweep failed and has printed its error; the first argument is its exit code."""


def main() -> None:
    """Entry point of `limoe` and `python -m limoe`."""
    try:
        _dispatch(sys.argv[1:])
    except JobFailed as error:
        sys.exit(error.args[0])
    except BrokenPipeError:  # the reader of the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAULT)
    except KeyboardInterrupt:
        sys.exit(_stopped(INTERRUPTED))
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning ends an interrupted fit with exit code 1 ...
            sys.exit(_stopped(INTERRUPTED))
        if type(error).__name__ == "SIGTERMException":  # ... and a terminated one with 0
            sys.exit(_stopped(TERMINATED))
        raise
    except Exception as error:  # the command's own errors were reported by its job: this one is about its arguments
        sys.exit(_report(error, may_be_bug=not isinstance(error, (ValueError, OSError))))


def _dispatch(words: list[str]) -> None:
    commands = all_commands()
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview(commands.values()))
    elif words[0] in ("--version", "-V"):
        print(f"limoe {limoe.__version__}")
    elif words[0] in commands:
        _run_command(commands[words[0]], words[1:])
    else:
        has_no_command = "=" in words[0] or words[0].startswith("-")
        hint = "; the command comes first: limoe train ..." if has_no_command else did_you_mean(words[0], commands)
        raise ConfigError(f"unknown command {words[0]!r}{hint} (commands: {', '.join(commands)})")


def _overview(commands: Iterable[Command]) -> str:
    commands = list(commands)
    width = max(len(command.name) for command in commands)
    listed = "\n".join(f"  {command.name:<{width}} {command.summary}" for command in commands)
    return f"""limoe {limoe.__version__}: one sparse transformer for images and texts.

limoe <command> [key=value ...] [options]

{listed}

limoe <command> --help shows its groups and keys."""


def _run_command(command: Command, words: list[str]) -> None:
    options, others = arguments.split(words, flags=command.flags)
    overrides = arguments.overrides(others, positional=command.positional)
    configs = config_dir(command.name)
    own = own_config_dir(command.name)
    experiments = configs.parent / "experiments"
    places = [place for place in (configs, own, experiments) if place is not None]
    register_resolvers(help_text=command.help, groups=lambda: _listed_groups(places))
    _add_to_search_path(experiments)
    if own is not None:
        options = ["--config-dir", str(own), *options]
        sys.path.append(str(own.parent))  # last, so that its files shadow no module
    job = _job(command, argv=list(sys.argv))
    app = hydra.main(version_base=_VERSION_BASE, config_path=str(configs), config_name=command.name)(job)
    known = Known(
        keys=lambda: _known_keys(configs, own, name=command.name, overrides=overrides),
        options=lambda group: _options(places, group),
    )
    with explained(known=known), _seen_by_hydra([sys.argv[0], *options, *overrides]):
        app()


def _options(places: Iterable[Path], group: str) -> list[str]:
    """Options of a group; files that begin with `_` are parts of others and no options."""
    return sorted({file.stem for place in places for file in (place / group).glob("[!_]*.yaml")})


def _listed_groups(places: Iterable[Path]) -> str:
    """All groups with their options, in lines such as `model: big, tiny`."""
    folders = {folder.relative_to(place).as_posix() for place in places for folder in place.rglob("*/")}
    lines = []
    for group in sorted(folders):
        options = _options(places, group)
        if options and group.partition("/")[0] != "hydra":
            lines.append(f"{group}: {', '.join(options)}")
    return "\n".join(lines)


def _job(command: Command, *, argv: list[str]) -> Callable[[DictConfig], Any]:
    """The function that Hydra runs. It restores `sys.argv`, which Lightning repeats to start the other ranks.

    Errors end the process here; in a sweep the other jobs still run, and the first failure sets the exit code.
    """

    def job(cfg: DictConfig) -> Any:
        sys.argv = argv
        try:
            return command.load()(cfg)
        except Exception as error:
            code = _report(error)
            folder = Path(HydraConfig.get().runtime.output_dir)
            if folder != Path.cwd():  # where some commands write
                with contextlib.suppress(OSError):  # a refused run leaves no empty folder
                    folder.rmdir()
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise JobFailed(code) from None  # already printed
            raise SystemExit(code) from error

    return job


@contextlib.contextmanager
def _seen_by_hydra(argv: list[str]) -> Iterator[None]:
    """Set `sys.argv`, which Hydra reads, and HYDRA_FULL_ERROR, with which it raises errors instead of printing them."""
    before = sys.argv
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = argv
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _add_to_search_path(folder: Path) -> None:
    if not folder.is_dir():
        return

    class Experiments(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append("limoe-experiments", f"file://{folder}")

    Plugins.instance().register(Experiments)


def _known_keys(configs: Path, own: Path | None, *, name: str, overrides: list[str]) -> list[str]:
    """Dotted keys of the config, composed with the chosen groups if possible, with those of a project's own configs."""
    also = [] if own is None else [f"hydra.searchpath=[{quoted(f'file://{own}')}]"]
    with contextlib.suppress(Exception), hydra.initialize_config_dir(str(configs), version_base=_VERSION_BASE):
        return composed_keys(name, overrides, search_path=also)
    return []


def _report(error: Exception, *, may_be_bug: bool = True) -> int:
    """Print one line, or the traceback of a bug in limoe; return the exit code."""
    message = explain(error)
    if message is None and not may_be_bug:
        message = one_line(str(error))
    if message is None or os.environ.get("LIMOE_TRACEBACK") == "1":
        traceback.print_exception(error)
    if message is None:
        return FAULT
    print(f"limoe: error: {message}", file=sys.stderr)
    return USER


def _stopped(code: int) -> int:
    command = all_commands().get(sys.argv[1]) if len(sys.argv) > 1 else None
    goes_on = "; the same command goes on" if command is not None and command.goes_on else ""
    print(f"limoe: {'interrupted' if code == INTERRUPTED else 'terminated'}{goes_on}", file=sys.stderr)
    return code
