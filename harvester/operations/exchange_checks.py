"""The assumptions about the exchange that harvester rests on, each a check of captured answers.

`doctor` requests the answers; nothing here sends a request. docs/kraken.md lists the assumptions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec

from harvester.errors import BAD_JSON, HarvesterError, brief
from harvester.kraken.answers import Transient, read_result
from harvester.kraken.ohlc import WEEK_MIN, read_candles
from harvester.kraken.pairs import TOKENIZED_ASSET, Pair, check_market, read_pairs
from harvester.kraken.trades import PAGE_ROWS, decode_page
from harvester.schema import trade_ids
from harvester.times import SECOND

REQUESTED_COUNT = 10
"""How many rows the request with `count` asks for."""
MAX_CLOCK_SKEW_S = 5
OHLC_ROWS = 721
"""The last 720 closed candles, and the running one."""
MIN_COUNT_SHARE = Decimal("0.9")
"""Weekly counts and the newest trade id may differ by this factor at most."""

_NUMBER = (rb'"\d+(\.\d+)?"', "a number as text")
TRADE_COLUMNS = {
    "price": _NUMBER,
    "volume": _NUMBER,
    "time": (rb"\d+(\.\d+)?", "a number"),
    "side": (rb'"[bs]"', '"b" or "s"'),
    "order_type": (rb'"[ml]"', '"m" or "l"'),
    "misc": (rb'".*"', "text"),
    "trade_id": (rb"\d+", "a whole number"),
}
"""The elements of a trade: the form of each as JSON, as a pattern and in words."""
CANDLE_COLUMNS = {
    "time": (rb"\d+", "a whole number"),
    **dict.fromkeys(("open", "high", "low", "close", "vwap", "volume"), _NUMBER),
    "count": (rb"\d+", "a whole number"),
}
_CURSOR = re.compile(rb'"([0-9]{19})"')

Status = Literal["ok", "fault", "differs", "not checked"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check of `doctor` saw.

    Attributes:
        name: of the check.
        status: `ok`; `fault` for something wrong with this machine; `differs` for an exchange that
            is not as harvester expects; or `not checked`.
        seen: what was seen, or why nothing could be.
        meaning: what a fault or a difference means for the user, and what to do; else empty.
    """

    name: str
    status: Status
    seen: str
    meaning: str = ""

    @property
    def exit_status(self) -> int:
        """1 for a fault, 3 for a difference, else 0."""
        return {"fault": 1, "differs": 3}.get(self.status, 0)

    def to_dict(self) -> dict[str, str]:
        """The fields by name, for JSON."""
        return asdict(self)


class NotChecked(Exception):
    """An answer that a check needs is missing; the message says why."""


class Differs(Exception):
    """An assumption does not hold."""

    def __init__(self, seen: str, meaning: str) -> None:
        super().__init__(seen)
        self.seen, self.meaning = seen, meaning


class RawPage(NamedTuple):
    """A page of trades, or an answer of candles, whose elements are still JSON."""

    market: str
    rows: list[list[bytes]]
    last: bytes | None

    @property
    def cursor_ns(self) -> int:
        """The cursor as nanoseconds.

        Raises:
            NotChecked: `last` is not a cursor.
        """
        found = _CURSOR.fullmatch(self.last or b"")
        if found is None:
            raise NotChecked("it needs a `last` of nineteen digits")
        return int(found[1])

    @property
    def times(self) -> list[Decimal]:
        """The printed times of the rows, in seconds."""
        try:
            return [Decimal(row[2].decode().strip('"')) for row in self.rows]
        except (IndexError, ArithmeticError) as error:
            raise NotChecked("the times of its trades can't be read") from error

    @property
    def unit_ns(self) -> int:
        """One unit of the last decimal that the times print, in nanoseconds."""
        exponents = [int(time.as_tuple().exponent) for time in self.times]
        return int(10 ** (9 + max(-9, min([0, *exponents]))))


class Answers:
    """What the exchange answered, by label, and why other answers are missing.

    Attributes:
        pair: the market that the trades are of; None if it could not be found.
        machine_ns: this machine's clock when `time` was answered.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.failures: dict[str, str] = {}
        self.pair: Pair | None = None
        self.machine_ns = 0

    def body(self, label: str) -> bytes:
        """The body of an answer.

        Raises:
            NotChecked: it is missing.
        """
        if label not in self.bodies:
            raise NotChecked(self.failures.get(label, "its answers were not requested"))
        return self.bodies[label]

    def field(self, label: str, name: str) -> Any:  # noqa: ANN401 - any JSON
        """An entry of the answer's result, decoded; None if there is none."""
        return msgspec.json.decode(read_result(self.body(label)).get(name, b"null"))

    def page(self, label: str) -> RawPage:
        """The rows of an answer about one market."""
        result = read_result(self.body(label))
        last = result.pop("last", None)
        if len(result) != 1:
            raise NotChecked(f"an answer names {len(result)} markets")
        [(market, rows)] = result.items()
        try:
            decoded = msgspec.json.decode(rows, type=list[list[msgspec.Raw]])
        except BAD_JSON as error:
            raise NotChecked("an answer has no list of rows") from error
        tokens = [[bytes(token) for token in row] for row in decoded]
        return RawPage(market, tokens, None if last is None else bytes(last))

    def pages(self) -> list[tuple[str, RawPage]]:
        """The pages of trades that were answered.

        Raises:
            NotChecked: there is none.
        """
        labels = ("newest", "after_newest", "first", "second")
        found = [(label, self.page(label)) for label in labels if label in self.bodies]
        if not found:
            raise NotChecked("no page of trades was answered")
        return found


# --- the endpoints without trades -----------------------------------------------------------------


def check_clock(answers: Answers) -> str:
    """Compare the exchange's clock with this machine's."""
    skew_s = int(answers.field("time", "unixtime")) - answers.machine_ns // SECOND
    where = "ahead of" if skew_s > 0 else "behind"
    seen = f"the exchange's clock is {abs(skew_s):,} s {where} this machine's"
    if abs(skew_s) > MAX_CLOCK_SKEW_S:
        raise Differs(
            seen,
            "downloads end at the earlier of both clocks, and refuse an exchange's clock that is "
            "more than a day ahead: correct this machine's clock (an API server over an old "
            "archive is behind on purpose)",
        )
    return seen


def check_system_status(answers: Answers) -> str:
    """Check that the exchange's status is a known one."""
    status = brief(str(answers.field("status", "status")))
    if status not in ("online", "maintenance", "cancel_only", "post_only"):
        raise Differs(
            f"the status is {status!r}", "refresh shows it, and does nothing else with it"
        )
    return status


def check_pairs(answers: Answers) -> str:
    """Check that every row of AssetPairs can be used."""
    result = read_result(answers.body("pairs"))
    pairs = read_pairs(result)
    no_status = sum(pair.status == "unknown" for pair in pairs.values())
    seen = f"{len(pairs):,} pairs, {no_status:,} without a status"
    if len(pairs) < len(result):
        used = {pair.key for pair in pairs.values()}
        names = [name for name in result if name not in used]
        raise Differs(
            f"{seen}; {len(names):,} rows can't be used: {brief(', '.join(names))}",
            "these markets can't be downloaded; all others can",
        )
    return seen


def check_stocks(answers: Answers) -> str:
    """Check that tokenized stocks are listed if they are asked for."""
    pairs = read_pairs(read_result(answers.body("stocks"))).values()
    stocks = [pair for pair in pairs if pair.aclass_base == TOKENIZED_ASSET]
    default = read_pairs(read_result(answers.body("pairs"))).values()
    if not stocks or len(stocks) < len(pairs):
        raise Differs(
            f"{len(stocks):,} of {len(pairs):,} pairs are tokenized stocks",
            "tokenized stocks (xStocks) can't be found by name, and so not downloaded",
        )
    among_others = sum(pair.aclass_base == TOKENIZED_ASSET for pair in default)
    return f"{len(stocks):,} tokenized stocks, {among_others:,} of them in the default list"


def check_unknown_pair(answers: Answers) -> str:
    """Check the error for a pair that does not exist."""
    error = answers.failures.get("unknown_pair")
    if error is None:
        answers.body("unknown_pair")
        error = "an answer without an error"
    if "unknown_pair" in answers.bodies or "EQuery:Unknown asset pair" not in error:
        raise Differs(
            brief(error), "a delisted pair may be requested again and again until give_up_s"
        )
    return "EQuery:Unknown asset pair"


# --- trades ---------------------------------------------------------------------------------------


def check_trade_row(answers: Answers) -> str:
    """Check the number and the types of a trade's elements."""
    rows = [row for _, page in answers.pages() for row in page.rows]
    if not rows:
        raise NotChecked("the market has no trades")
    _check_columns(rows, TRADE_COLUMNS, least=6, trouble="no trades can be downloaded")
    lengths = Counter(map(len, rows))
    seen = ", ".join(f"{count:,} rows of {length} elements" for length, count in lengths.items())
    if lengths.keys() - {7}:
        raise Differs(
            seen,
            "rows without the seventh element, the trade id, can't be checked for lost trades; an "
            "eighth element is ignored",
        )
    return seen


def check_trade_pages(answers: Answers) -> str:
    """Check that harvester reads every page, and that each is of the requested market."""
    labels = [label for label, _ in answers.pages()]
    for label in labels:
        try:
            page = decode_page(answers.body(label))
            if answers.pair is not None:
                check_market(answers.pair, page.market)
        except (HarvesterError, Transient, *BAD_JSON) as error:
            raise Differs(
                brief(str(error)), "such pages are refused: no trades can be downloaded"
            ) from error
    return f"{len(labels)} pages read"


def check_order(answers: Answers) -> str:
    """Check that the trades of a page ascend by time."""
    for label, page in answers.pages():
        descents = sum(later < earlier for earlier, later in pairwise(page.times))
        if descents:
            raise Differs(
                f"the times of the page {label!r} descend {descents:,} times",
                "harvester sorts such a page, and requests some pages again",
            )
    return "ascending by time"


def check_ids(answers: Answers) -> str:
    """Check that trade ids are consecutive, ascending, and begin with 1.

    A page with trades without an id, as until June 2024, is left out.
    """
    ids_of: dict[str, list[int]] = {}
    reasons = []
    for label in ("first", "second", "newest"):
        try:
            ids_of[label] = _ids(answers, label)
        except NotChecked as error:
            reasons.append(str(error))
    for label, ids in ids_of.items():
        for earlier, later in pairwise(ids):
            if later <= earlier:
                raise Differs(
                    f"on the page {label!r}, trade id {later:,} follows {earlier:,}",
                    "ids that repeat or restart can't prove that nothing is missing: `verify` "
                    "reports such trades, and downloads request the place again",
                )
        missing = ids[-1] - ids[0] + 1 - len(ids)
        if missing:
            raise Differs(
                f"{missing:,} ids are missing between {ids[0]:,} and {ids[-1]:,}",
                "harvester requests such a place again, and records an id gap that is confirmed",
            )
    if not ids_of:
        raise NotChecked(reasons[0])
    shown = [f"{label} page: {ids[0]:,} to {ids[-1]:,}" for label, ids in ids_of.items()]
    seen = f"consecutive; {'; '.join([*shown, *reasons])}"
    if ids_of.get("first", [1])[0] != 1:
        raise Differs(seen, "the trades before it are recorded as an id gap")
    return seen


def _ids(answers: Answers, label: str) -> list[int]:
    try:
        ids = trade_ids(decode_page(answers.body(label)).rows).tolist()
    except (HarvesterError, *BAD_JSON) as error:
        raise NotChecked(f"the page {label!r} can't be read") from error
    if not ids or 0 in ids:
        raise NotChecked(f"{ids.count(0):,} of {len(ids):,} trades of {label!r} have no id")
    return [int(trade_id) for trade_id in ids]


def check_times(answers: Answers) -> str:
    """Say how many decimals times have, and how far they are from the cursor."""
    pages = [page for _, page in answers.pages() if page.rows]
    if not pages:
        raise NotChecked("the market has no trades")
    decimals = max(9 if page.unit_ns == 1 else 10 - len(str(page.unit_ns)) for page in pages)
    longest = max(-int(time.as_tuple().exponent) for page in pages for time in page.times)
    if longest > 9:
        raise Differs(f"times of {longest} decimals", "such trades can't be stored")
    off_ns = max(abs(_off_ns(page)) for page in pages)
    return f"{decimals} decimals, up to {off_ns:,} ns from `last`"


def _off_ns(page: RawPage) -> int:
    return page.cursor_ns - int(page.times[-1] * SECOND)


def check_cursor(answers: Answers) -> str:
    """Check that `last` is the time of a page's last row, in nanoseconds as text."""
    for label, page in answers.pages():
        if not page.rows:
            continue
        last = b"" if page.last is None else page.last
        if _CURSOR.fullmatch(last) is None:
            shown = brief(last.decode(errors="replace")) or "missing"
            digits = len(re.findall(rb"\d", last))
            raise Differs(
                f"`last` of the page {label!r} is {shown} ({digits} digits), not nanoseconds as "
                "text of nineteen digits",
                "harvester goes on from the times of rows instead; only trades of one time that "
                "fill a page become a gap",
            )
        if abs(_off_ns(page)) > max(1000, page.unit_ns):
            raise Differs(
                f"`last` of the page {label!r} is {_off_ns(page):,} ns from its last row",
                "harvester uses it within a second of the last row only; trades may be requested "
                "again",
            )
    return "nanoseconds as text, the time of the page's last row"


def check_since(answers: Answers) -> str:
    """Say whether `since` is inclusive: whether a page from the cursor shows its row again."""
    modes = {
        _since_mode(answers.page(label), answers.page(after))
        for label, after in (
            ("newest", "after_newest"),
            ("first", "from_first"),
            ("second", "from_second"),
        )
    }
    modes.discard("")
    if not modes:
        raise NotChecked("no trades follow the cursor")
    if len(modes) > 1 or not modes <= {"inclusive", "exclusive"}:
        raise Differs(
            ", and ".join(sorted(modes)),
            "downloads stay exact as long as pages overlap (see the check `overlap`), but may "
            "request more pages",
        )
    return modes.pop()


def _since_mode(page: RawPage, following: RawPage) -> str:
    """How a page from a cursor begins; empty if it does not show it."""
    page.cursor_ns  # noqa: B018 - without a cursor nothing is known
    if not page.rows:
        return ""
    if not following.rows:
        return "exclusive"
    first = following.rows[0]
    if first in page.rows:
        return "inclusive" if first[2] == page.rows[-1][2] else "beginning before `since`"
    return "exclusive" if following.times[0] >= page.times[-1] else "beginning before `since`"


def check_overlap(answers: Answers) -> str:
    """Check that a page from just before the last row of another one shows that row again."""
    page, following = answers.page("first"), answers.page("second")
    if page.rows and page.rows[-1] not in following.rows:
        raise Differs(
            "a page from before the last row of another does not show that row",
            "pages can't be joined: the download ends with status 3",
        )
    return "the next page shows the last row again"


def check_page_size(answers: Answers) -> str:
    """Check that a full page has a thousand rows."""
    rows = len(answers.page("first").rows)
    newest_time = answers.page("newest").times[-1:]
    if rows == PAGE_ROWS or answers.page("first").times[-1:] == newest_time:
        return f"{rows:,} rows" + ("" if rows == PAGE_ROWS else ": the whole history")
    raise Differs(
        f"a page in the middle of the history has {rows:,} rows",
        f"a page of other than {PAGE_ROWS:,} rows counts as the end of history until the newest "
        "page shows otherwise: downloads take more requests",
    )


def check_count(answers: Answers) -> str:
    """Check that `count` limits the rows of a page."""
    rows, few = answers.page("first").rows, answers.page("few").rows
    if few != rows[:REQUESTED_COUNT]:
        raise Differs(
            f"count={REQUESTED_COUNT} gave {len(few):,} rows, not the first {REQUESTED_COUNT}",
            "harvester sends no `count`",
        )
    return f"count={REQUESTED_COUNT} gives the first {len(few)} rows"


def check_repeat(answers: Answers) -> str:
    """Check that a page that is requested twice is the same."""
    if answers.page("first") != answers.page("first_again"):
        raise Differs(
            "the first page differs from one request to the next",
            "rows may be left out: harvester finds that by ids only, so run `verify` afterwards",
        )
    return "the same page twice"


def check_end(answers: Answers) -> str:
    """Say how the end of history is answered."""
    page, after = answers.page("newest"), answers.page("after_newest")
    old = [row for row in after.rows if row in page.rows]
    fresh = len(after.rows) - len(old)
    if fresh >= PAGE_ROWS or (old and after.times[0] < page.times[-1]):
        raise Differs(
            f"{len(after.rows):,} rows follow the newest page", "downloads may not find their end"
        )
    return f"{len(old)} rows again, {fresh} new ones"


# --- candles --------------------------------------------------------------------------------------


def check_candle_row(answers: Answers) -> str:
    """Check the number and the types of a candle's elements."""
    rows = answers.page("candles").rows
    _check_columns(rows, CANDLE_COLUMNS, least=8, trouble="candles can't be compared")
    longer = max(map(len, rows), default=8)
    if longer > 8:
        raise Differs(
            f"{longer} elements in place of 8",
            "the additional ones are ignored; comparisons go on with the first eight",
        )
    return f"{len(rows):,} rows of 8 elements"


def check_candle_times(answers: Answers) -> str:
    """Check that candles follow one another by their length, up to 721 of them."""
    candles = read_candles(answers.body("candles"), 1)
    steps = Counter(later.time_ns - earlier.time_ns for earlier, later in pairwise(candles))
    odd = sum(count for step, count in steps.items() if step != 60 * SECOND)
    if odd or len(candles) > OHLC_ROWS:
        raise Differs(
            f"{len(candles):,} candles of a minute, {odd:,} of them not right after another",
            "comparisons with the exchange skip minutes or take longer; stored trades are right",
        )
    empty = sum(candle.count == 0 for candle in candles)
    return f"{len(candles):,} candles, one for each minute, {empty:,} without trades"


def check_candles_stable(answers: Answers) -> str:
    """Check that closed candles are the same in a later answer."""
    earlier = {candle.time_ns: candle for candle in read_candles(answers.body("candles"), 1)[:-1]}
    later = read_candles(answers.body("candles_again"), 1)[:-1]
    both = [candle for candle in later if candle.time_ns in earlier]
    changed = sum(candle != earlier[candle.time_ns] for candle in both)
    if changed:
        raise Differs(
            f"{changed:,} of {len(both):,} closed candles changed between two answers",
            "the trades are what counts: `verify --against-exchange` requests such candles twice",
        )
    return f"{len(both):,} closed candles, the same twice"


def check_weeks(answers: Answers) -> str:
    """Check that the counts of weekly candles add up to nearly all trades."""
    weeks = read_candles(answers.body("weeks"), WEEK_MIN)
    trades = sum(week.count for week in weeks)
    newest = _ids(answers, "newest")[-1]
    seen = f"{trades:,} trades in {len(weeks)} weeks; the newest trade id is {newest:,}"
    if not MIN_COUNT_SHARE * newest <= trades <= newest / MIN_COUNT_SHARE:
        raise Differs(
            seen,
            "estimates of downloads (--dry-run, progress bars) are wrong, or trade ids do not "
            "count the trades",
        )
    return seen


# --- all of them ----------------------------------------------------------------------------------


def _check_columns(
    rows: list[list[bytes]],
    columns: Mapping[str, tuple[bytes, str]],
    *,
    least: int,
    trouble: str,
) -> None:
    """Check the JSON type of each element.

    Args:
        rows: the rows of all pages.
        columns: the pattern and the words for each element, by its name.
        least: how many elements a row has at least.
        trouble: what an element of another type means for the user.
    """
    for position, (name, (pattern, words)) in enumerate(columns.items()):
        form = re.compile(pattern, re.DOTALL)
        required = position < least
        wrong = [
            row[position] if position < len(row) else b"missing"
            for row in rows
            if (position < len(row) or required)
            and (position >= len(row) or not form.fullmatch(row[position]))
        ]
        if wrong:
            raise Differs(
                f"{name} is {brief(wrong[0].decode(errors='replace'))} in {len(wrong):,} of "
                f"{len(rows):,} rows, not {words}",
                f"such rows are refused: {trouble}. Look for a newer harvester",
            )


CHECKS: dict[str, Callable[[Answers], str]] = {
    "clock": check_clock,
    "system status": check_system_status,
    "pairs": check_pairs,
    "xstocks": check_stocks,
    "unknown pair": check_unknown_pair,
    "trade columns": check_trade_row,
    "trade pages": check_trade_pages,
    "order": check_order,
    "trade ids": check_ids,
    "times": check_times,
    "last": check_cursor,
    "since": check_since,
    "overlap": check_overlap,
    "page size": check_page_size,
    "count": check_count,
    "repeated page": check_repeat,
    "end of history": check_end,
    "candle columns": check_candle_row,
    "candle times": check_candle_times,
    "stable candles": check_candles_stable,
    "weekly counts": check_weeks,
}
"""The checks by name. Each returns what it saw, or raises `Differs` or `NotChecked`."""


def run_check(name: str, check: Callable[[], str]) -> CheckResult:
    """Run one check; an answer that can't be read is a difference.

    Args:
        name: of the check.
        check: returns what it saw.
    """
    try:
        return CheckResult(name, "ok", check())
    except NotChecked as error:
        return CheckResult(name, "not checked", str(error))
    except Differs as error:
        return CheckResult(name, "differs", error.seen, error.meaning)
    except (HarvesterError, Transient, TypeError, *BAD_JSON) as error:
        meaning = "harvester refuses such answers, and requests them again where that may help"
        return CheckResult(name, "differs", brief(str(error)), meaning)
