"""`status --digest`: the one line by which two people compare what they hold."""

from __future__ import annotations

import time

from harvester.cli import output
from harvester.cli.options import Common
from harvester.cli.progress import display
from harvester.download.events import Begun, Step
from harvester.pair_names import resolve_held
from harvester.storage.replacement_staging import check_not_torn
from harvester.storage.trade_store import check_not_in_future
from harvester.times import parse_moment, range_between
from harvester.verify.digest import Digest, digests


def tell_digests(
    common: Common, pairs: tuple[str, ...], between: tuple[str, str | None], *, as_json: bool
) -> int:
    """Print the digests of some pairs, or of all that are held; `between`: since and until."""
    now = time.time_ns()
    since, until = between
    wanted = range_between(
        parse_moment(since, now), None if until is None else parse_moment(until, now)
    )
    archive = common.existing()
    names = [resolve_held(archive, name).altname for name in pairs] or archive.held()
    found = []
    with display(quiet=common.quiet, log_json=common.log_json) as shown:
        shown.tell(Begun(len(names)))
        for name in names:
            check_not_torn(archive, name)
            check_not_in_future(archive, name, now)
            of_pair = digests(
                archive,
                name,
                wanted,
                progress=lambda pair, done, of: shown.tell(Step(pair, done, of, "months")),
            )
            found += of_pair
            with shown.aside():
                if not of_pair and not common.quiet:
                    output.hint(f"{name}: no month is held whole there")
                for one in of_pair if not as_json else []:
                    _print(one, with_months=common.verbose > 0)
    if as_json:
        output.as_json([one._asdict() for one in found])
    return 0


def _print(digest: Digest, *, with_months: bool) -> None:
    output.result(str(digest))
    for month in digest.months if with_months else []:
        output.result(f"  {month.month}: {month.rows:,} trades, {month.sha256}")
