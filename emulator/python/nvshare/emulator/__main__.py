"""``python -m nvshare.emulator``: what can be done to emulated cards from outside."""

import argparse
import os
import sys

from nvshare.emulator.failures import FALLEN_OFF_THE_BUS, fail, find_card, recover


def main(arguments: list[str]) -> int:
    """Do what the command line says. Return the exit status: 1 when there is no such card."""
    parser = argparse.ArgumentParser(prog="python -m nvshare.emulator", description="Emulated GPUs, from outside.")
    parser.add_argument("--folder", help="folder of the cards; else $NVSHARE_EMULATOR_DIR")
    commands = parser.add_subparsers(dest="command", required=True)
    failing = commands.add_parser("fail", help="put an Xid error into a card")
    failing.add_argument("gpu", help="index or UUID")
    failing.add_argument("--xid", type=int, default=FALLEN_OFF_THE_BUS, help="which (default: %(default)s)")
    failing.add_argument(
        "--lost",
        action=argparse.BooleanOptionalAction,
        help=f"NVML no longer reaches the card (default: with Xid {FALLEN_OFF_THE_BUS})",
    )
    recovering = commands.add_parser("recover", help="let a card be well again")
    recovering.add_argument("gpu", help="index or UUID")
    options = parser.parse_args(arguments)
    if options.folder:
        os.environ["NVSHARE_EMULATOR_DIR"] = options.folder
    try:
        card = find_card(options.gpu)
    except LookupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.command == "fail":
        fail(card, options.xid, lost=options.lost)
    else:
        recover(card)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
