"""`rcontain-oci`: an OCI runtime with runc's command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

import rootless
from rootless.errors import RcontainError
from rootless.oci.runtime import VERSION
from rootless.runtime import commands, creation, features, interpreter, joining, ledger
from rootless.runtime.ledger import Ledger


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rcontain-oci",
        description="Run containers from OCI bundles, with or without root.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-v", "--version", action="version", version=f"rcontain-oci version {rootless.__version__}\nspec: {VERSION}"
    )
    parser.add_argument("--root", help="directory of the containers' state")
    parser.add_argument("--log", help="file that errors are also written to")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", default="info", help="accepted; only errors are logged")
    parser.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    parser.add_argument("--systemd-cgroup", action="store_true", help="accepted; cgroups are left as they are")
    parser.add_argument("--rootless", default="auto", help="accepted; it is found out")
    parser.add_argument("--cgroup-manager", default="disabled", help="accepted; cgroups are left as they are")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    for name, text in (("create", "make a container that waits for `start`"), ("run", "create and start a container")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("-b", "--bundle", default=".", help="directory with config.json")
        verb.add_argument("--console-socket", help="socket that takes the terminal's master")
        verb.add_argument("--pid-file", help="file to write the first process's pid to")
        verb.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="keep the descriptors 3...N+2")
        verb.add_argument("--no-pivot", action="store_true", help=argparse.SUPPRESS)
        verb.add_argument("--no-new-keyring", action="store_true", help=argparse.SUPPRESS)
        if name == "run":
            verb.add_argument("-d", "--detach", action="store_true", help="do not wait for the end")
            verb.add_argument("--keep", action="store_true", help="do not delete the container at its end")
            verb.add_argument("--no-subreaper", action="store_true", help=argparse.SUPPRESS)
            verb.add_argument("--dry-run", action="store_true", help="print the steps and do nothing")
        verb.add_argument("id")

    verb = verbs.add_parser("start", help="execute the command of a created container")
    verb.add_argument("id")
    verb = verbs.add_parser("state", help="print a container's state as JSON")
    verb.add_argument("id")
    verb = verbs.add_parser("kill", help="send a signal (TERM) to a container")
    verb.add_argument("-a", "--all", action="store_true", help="to all its processes")
    verb.add_argument("id")
    verb.add_argument("signal", nargs="?", default="TERM")
    verb = verbs.add_parser("delete", help="forget a container that has ended")
    verb.add_argument("-f", "--force", action="store_true", help="kill it first; a missing one is no error")
    verb.add_argument("id")
    verb = verbs.add_parser("exec", help="run one more process in a container")
    verb.add_argument("--console-socket", help="socket that takes the terminal's master")
    verb.add_argument("--cwd", help="working directory")
    verb.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    verb.add_argument("-t", "--tty", action="store_true", help="with a terminal")
    verb.add_argument("-u", "--user", metavar="UID[:GID]")
    verb.add_argument("-g", "--additional-gids", type=int, action="append", default=[], metavar="GID")
    verb.add_argument("-p", "--process", help="file with the process as JSON")
    verb.add_argument("-d", "--detach", action="store_true", help="do not wait for the end")
    verb.add_argument("--pid-file", help="file to write the process's pid to")
    verb.add_argument("-c", "--cap", action="append", default=[], metavar="NAME", help="one more capability")
    verb.add_argument("--no-new-privs", action="store_true", help="forbid gaining privileges")
    verb.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="keep the descriptors 3...N+2")
    verb.add_argument("--process-label", help=argparse.SUPPRESS)
    verb.add_argument("--apparmor", help=argparse.SUPPRESS)
    verb.add_argument("--cgroup", help=argparse.SUPPRESS)
    verb.add_argument("--ignore-paused", action="store_true", help=argparse.SUPPRESS)
    verb.add_argument("id")
    verb.add_argument("args", nargs=argparse.REMAINDER)
    verb = verbs.add_parser("ps", help="show a container's processes")
    verb.add_argument("-f", "--format", choices=("table", "json"), default="table")
    verb.add_argument("id")
    verb.add_argument("ps_options", nargs=argparse.REMAINDER)
    verb = verbs.add_parser("list", help="show all containers")
    verb.add_argument("-f", "--format", choices=("table", "json"), default="table")
    verb.add_argument("-q", "--quiet", action="store_true", help="ids only")
    verbs.add_parser("features", help="print what this runtime supports as JSON")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "features":
        print(features.document().decode())
        return 0
    book = Ledger(os.path.abspath(arguments.root or ledger.default_root()))
    verbs = {
        "create": creation.create,
        "start": commands.start,
        "run": commands.run,
        "state": commands.state,
        "kill": commands.kill,
        "delete": commands.delete,
        "exec": joining.exec_,
        "ps": commands.ps,
        "list": commands.list_,
    }
    return verbs[arguments.verb](arguments, book) or 0


def _log(arguments: argparse.Namespace, error: RcontainError) -> None:
    """Errors go to stderr and, where there is one, to the log file in runc's form."""
    print(f"rcontain-oci: {error}", file=sys.stderr)
    if not arguments.log:
        return
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"level": "error", "msg": str(error), "time": now}
    with open(arguments.log, "a") as file:
        if arguments.log_format == "json":
            file.write(msgspec.json.encode(line).decode() + "\n")
        else:
            file.write(f'time="{now}" level=error msg={msgspec.json.encode(str(error)).decode()}\n')


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point. Errors exit with 1 as runc's do; `run` and `exec` with the command's code, or 125, 126, 127."""
    arguments = _parser().parse_args(argv)
    try:
        if argv is None:
            interpreter.protect()
        return _run(arguments)
    except RcontainError as error:
        if arguments.debug:
            raise
        _log(arguments, error)
        return error.exit_code if arguments.verb in ("run", "exec") else 1


if __name__ == "__main__":
    sys.exit(main())
