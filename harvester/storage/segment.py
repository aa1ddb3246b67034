"""Segments: immutable Parquet files with all trades of one range. Names and footers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from harvester.errors import BAD_JSON, ArchiveDamaged, ArchiveTooNew
from harvester.schema import FORMAT, SEGMENT_SCHEMA
from harvester.storage.filesystem import LocalStore
from harvester.times import END_OF_TIME, Range, year_of

# --- footer ---------------------------------------------------------------------------------------


RANGE_NAME = "{:019d}-{:019d}"
"""A range in names of files and in footers: both ends in nanoseconds, with 19 digits."""
TIME_INDEX = SEGMENT_SCHEMA.get_field_index("time")


class IdPair(NamedTuple):
    """The trade ids on both sides of an id gap."""

    after_id: int
    before_id: int


class ImportedRange(NamedTuple):
    """A range of a segment that was imported from a CSV file.

    Attributes:
        after: start of the range, exclusive, in nanoseconds.
        through: end of the range, inclusive, in nanoseconds.
        file: the file's name; `ZIP:MEMBER` where it was in a zip.
        checksum: of the CSV file's bytes: `crc32:` and eight hexadecimal digits.
    """

    after: int
    through: int
    file: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Footer:
    """Metadata of a segment.

    Attributes:
        range: all trades of the pair published in it are in the segment.
        pair_json: the market in all its spellings, as JSON.
        source: `api`, `csv`, or `made` for made-up trades.
        cursor: the exchange's last cursor, verbatim; None where it gave none.
        rows: how many trades the segment has.
        first_trade_id: the first id; None where no row has one.
        last_trade_id: the last id; None where no row has one.
        rows_before_first_id: rows without an id before the first that has one (all rows, where none
            has).
        rows_after_last_id: rows without an id after the last that has one.
        confirmed_id_gaps: confirmed id gaps.
        unconfirmed_id_gaps: number of id gaps that are not confirmed: too many to request again,
            not answered, or inside an imported file.
        checksum: SHA-256 over the rows.
        imported: ranges that were imported from CSV files, in order; empty where all trades came
            from the API.
        ends_between_trades: whether it was imported of a delisted pair, and may end between two
            trades of nearly the same time, of which one is in another segment.
        id_gaps_across_imports: id gaps in which imported files have fewer trades than ids are free,
            found when the ranges next to them were downloaded, and too long to be requested
            again.
        bounds: first and last published time in ns, by the file's statistics; None without rows,
            or if the footer was not read from a file.
    """

    range: Range
    pair_json: str
    source: str = "api"
    cursor: str | None = None
    rows: int = 0
    first_trade_id: int | None = None
    last_trade_id: int | None = None
    rows_before_first_id: int = 0
    rows_after_last_id: int = 0
    confirmed_id_gaps: tuple[IdPair, ...] = field(default=())
    unconfirmed_id_gaps: int = 0
    checksum: str = ""
    imported: tuple[ImportedRange, ...] = field(default=())
    ends_between_trades: bool = False
    id_gaps_across_imports: tuple[IdPair, ...] = field(default=())
    bounds: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def is_imported(self) -> bool:
        """Whether all of its trades come from a CSV file."""
        return self.source == "csv"

    @property
    def altname(self) -> str:
        """The pair's altname; empty where the footer does not have it."""
        return self._named.altname

    @property
    def key(self) -> str:
        """The exchange's own name of the market; empty where the footer does not have it."""
        return self._named.key

    @property
    def _named(self) -> _Named:
        try:
            return msgspec.json.decode(self.pair_json, type=_Named)
        except BAD_JSON:
            return _Named()


class _Named(msgspec.Struct):
    altname: str = ""
    key: str = ""


def encode_footer(footer: Footer) -> dict[str, str]:
    """Encode a footer as Parquet key-value metadata."""
    first, last = footer.first_trade_id, footer.last_trade_id
    texts = {
        "format": str(FORMAT),
        "range": RANGE_NAME.format(*footer.range),
        "pair": footer.pair_json,
        "source": footer.source,
        "cursor": footer.cursor or "",
        "rows": str(footer.rows),
        "first_trade_id": "" if first is None else str(first),
        "last_trade_id": "" if last is None else str(last),
        "rows_before_first_id": str(footer.rows_before_first_id),
        "rows_after_last_id": str(footer.rows_after_last_id),
        "jumps": msgspec.json.encode(footer.confirmed_id_gaps).decode(),
        "jumps_not_asked_for": str(footer.unconfirmed_id_gaps),
        "rows_sha256": footer.checksum,
    }
    if footer.imported:
        texts["imported"] = msgspec.json.encode(footer.imported).decode()
    if footer.ends_between_trades:
        texts["ends_between_trades"] = "true"
    if footer.id_gaps_across_imports:
        texts["across_files"] = msgspec.json.encode(footer.id_gaps_across_imports).decode()
    return {f"harvester.{key}": text for key, text in texts.items()}


def decode_footer(path: str, metadata: Any, *, is_verified: bool = True) -> Footer:  # noqa: ANN401 - pyarrow has no types for it
    """Decode the footer of a Parquet file, and check its number of rows.

    Args:
        path: of the file, for messages.
        metadata: of the file, as pyarrow read it.
        is_verified: False for a file that may be damaged: the number of rows is not checked.

    Raises:
        ArchiveTooNew: a newer harvester wrote it.
        ArchiveDamaged: it is no footer of harvester's, or has another number of rows.
        pyarrow.ArrowInvalid: the Parquet file contradicts itself; `opened` names the file.
    """
    try:
        texts = {
            key.decode().removeprefix("harvester."): value.decode()
            for key, value in (metadata.metadata or {}).items()
            if key.startswith(b"harvester.")
        }
        if int(texts["format"]) > FORMAT:
            raise ArchiveTooNew(
                f"{path} has format {texts['format']}, this harvester reads up to {FORMAT}: "
                "install a newer one"
            )
        bounds = group_bounds(metadata)
        after, _, through = texts["range"].partition("-")
        first, last = texts["first_trade_id"], texts["last_trade_id"]
        gaps, imported = list[IdPair], list[ImportedRange]
        footer = Footer(
            range=Range(int(after), int(through)),
            pair_json=texts["pair"],
            source=texts["source"],
            cursor=texts["cursor"] or None,
            rows=int(texts["rows"]),
            first_trade_id=int(first) if first else None,
            last_trade_id=int(last) if last else None,
            rows_before_first_id=int(texts["rows_before_first_id"]),
            rows_after_last_id=int(texts["rows_after_last_id"]),
            confirmed_id_gaps=tuple(msgspec.json.decode(texts["jumps"], type=gaps)),
            unconfirmed_id_gaps=int(texts["jumps_not_asked_for"]),
            checksum=texts["rows_sha256"],
            ends_between_trades="ends_between_trades" in texts,
            id_gaps_across_imports=tuple(
                msgspec.json.decode(texts.get("across_files", "[]"), type=gaps)
            ),
            imported=tuple(msgspec.json.decode(texts.get("imported", "[]"), type=imported)),
            bounds=(min(bounds)[0], max(last for _, last in bounds)) if bounds else None,
        )
    except pa.ArrowInvalid:
        raise
    except (KeyError, *BAD_JSON) as error:
        raise ArchiveDamaged(f"{path} has no footer of a segment ({error!r})") from error
    rows = metadata.num_rows
    if is_verified and footer.rows != rows:
        raise ArchiveDamaged(f"{path} has {rows} rows, but its footer says {footer.rows}")
    return footer


ALL_TIMES = (0, END_OF_TIME)
"""The bounds of rows of which a file has no statistics."""


def group_bounds(metadata: Any, column: int = TIME_INDEX) -> list[tuple[int, int]]:  # noqa: ANN401 - pyarrow has no types for it
    """The first and last published time of each row group; all times where statistics lack.

    Args:
        metadata: of the file, as pyarrow read it.
        column: the index of the column `time`.

    Raises:
        pyarrow.ArrowInvalid: the schema and a row group contradict each other.
    """
    bounds = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        chunk = group.column(column) if 0 <= column < group.num_columns else None
        statistics = None
        if chunk is not None and chunk.physical_type == "INT64":
            # pyarrow ends the process where it reads statistics of another type than the schema's.
            if metadata.schema.column(column).physical_type != "INT64":
                raise pa.ArrowInvalid("the type of time in the schema is not that of a row group")
            statistics = chunk.statistics
        if statistics is not None and statistics.has_min_max:
            bounds.append((int(statistics.min_raw), int(statistics.max_raw)))
        else:
            bounds.append(ALL_TIMES)
    return bounds


# --- names ----------------------------------------------------------------------------------------

_PATH = re.compile(r"trades/pair=([^/]+)/year=(\d{4})/(\d{19})-(\d{19})(?:\.csv)?\.parquet")
IMPORTED_ENDING = ".csv.parquet"


class Segment(NamedTuple):
    """A segment as a listing shows it.

    Attributes:
        pair: altname.
        year: of its folder.
        range: it has all trades published in it.
        path: within the archive.
        size: in bytes.
        changed_ns: when it was written, by the store's clock: distinguishes files of one name.
    """

    pair: str
    year: int
    range: Range
    path: str
    size: int
    changed_ns: int = 0

    @property
    def is_imported(self) -> bool:
        """Whether its trades come from a CSV file: their times may be whole seconds."""
        return self.path.endswith(IMPORTED_ENDING)


def reading_order(segment: Segment) -> tuple[int, int, bool]:
    """Sort key: by start of range, widest first; downloaded before imported ones of equal range."""
    return segment.range.after, -segment.range.through, segment.is_imported


def segment_path(
    pair: str, covered: Range, last_time_ns: int | None, *, is_imported: bool = False
) -> str:
    """Path of a segment within the archive.

    Args:
        pair: altname.
        covered: the segment's range.
        last_time_ns: published time of its last row, whose year is the folder; without rows
            (None) it is the year of the range's end.
        is_imported: whether the trades come from a CSV file, which the name shows.
    """
    year = year_of(covered.through if last_time_ns is None else last_time_ns)
    ending = IMPORTED_ENDING if is_imported else ".parquet"
    return f"trades/pair={pair}/year={year:04d}/{RANGE_NAME.format(*covered)}{ending}"


def parse_path(path: str, size: int, changed_ns: int = 0) -> Segment | None:
    """Parse the path of a listed file; None where it is not a segment's.

    Args:
        path: within the archive.
        size: of the file, in bytes.
        changed_ns: when the file was written, by the store's clock.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    pair, year, after, through = match.groups()
    covered = Range(int(after), int(through))
    if covered.after >= covered.through:
        return None
    return Segment(pair, int(year), covered, path, size, changed_ns)


def is_segment(file: Path) -> bool:
    """Whether the path of a file, its folders included, is that of a segment."""
    return parse_path("/".join(("trades", *file.parts[-3:])), 0) is not None


_ROLLUP_PATH = re.compile(
    r"candles/interval=([^/]+)/pair=([^/]+)/year=(\d{4})/(\d{19})-(\d{19})(?:\.csv)?\.parquet"
)


class RollUp(NamedTuple):
    """A roll-up as a listing shows it; `segment_path` is the path that its segment has."""

    interval: str
    segment_path: str
    path: str
    size: int

    @property
    def pair(self) -> str:
        """The altname, which is in the path."""
        return self.segment_path.split("/", 2)[1].removeprefix("pair=")


def rollup_path(segment: Segment, interval: str) -> str:
    """Path of a roll-up within the archive.

    Args:
        segment: from which it is made.
        interval: the level, such as 1m.
    """
    return segment.path.replace("trades/", f"candles/interval={interval}/", 1)


def list_rollups(store: LocalStore, pair: str) -> list[RollUp]:
    """List the roll-ups of a pair, of all levels; no file is opened.

    Args:
        store: the archive's files.
        pair: altname.
    """
    return [
        rollup
        for level in store.folders("candles")
        if level.startswith("interval=")
        for entry in store.files(f"candles/{level}/pair={pair}")
        if (rollup := parse_rollup_path(entry.path, entry.size))
    ]


def parse_rollup_path(path: str, size: int) -> RollUp | None:
    """Parse the path of a listed file; None where it is not a roll-up's.

    Args:
        path: within the archive.
        size: of the file, in bytes.
    """
    match = _ROLLUP_PATH.fullmatch(path)
    return RollUp(match[1], "trades/" + path.split("/", 2)[2], path, size) if match else None
