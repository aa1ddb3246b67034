"""Each notebook runs in a kernel and a folder of its own; what it finds is counted once more."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import harvester
from harvester.server.sample_data import sample_trades

nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
config = pytest.importorskip("traitlets.config", reason="needs the extra notebook")
interactiveshell = pytest.importorskip(
    "IPython.core.interactiveshell", reason="needs the extra notebook"
)

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
STRICT = "import warnings\nwarnings.simplefilter('error')"
REPORT = "import json\nwarnings.resetwarnings()\nprint(json.dumps({}, default=str))"


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


class Run:
    """A notebook, run from top to bottom, with a question put to its names at the end."""

    def __init__(self, name: str, folder: Path, question: str = "None") -> None:
        self.notebook = read(name)
        before = nbformat.v4.new_code_cell(STRICT)
        behind = nbformat.v4.new_code_cell(REPORT.format(question))
        self.notebook.cells = [before, *self.notebook.cells, behind]
        client = nbclient.NotebookClient(
            self.notebook, timeout=120, resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
        self.answer = json.loads(behind.outputs[0]["text"])

    def outputs(self, cell_id: str) -> list[Any]:
        [cell] = [cell for cell in self.notebook.cells if cell.id == cell_id]
        return list(cell.outputs)

    def printed(self) -> list[str]:
        """What the cells of the notebook sent to stderr; a warning would stand there."""
        outputs = chain.from_iterable(cell.outputs for cell in code(self.notebook))
        return [output["text"] for output in outputs if output.get("name") == "stderr"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is set up for Jupyter on this machine has no say."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name[:3]))


@pytest.fixture(scope="module")
def history() -> list[dict[str, Any]]:
    """The trades of the sample exchange, as plain Python has them, each with its second."""
    trades = sample_trades(200_000, 7)
    rows: list[dict[str, Any]] = trades.select(["price", "volume", "side"]).to_pylist()
    for row, time_ns in zip(rows, trades.column("time").cast("int64").to_pylist(), strict=True):
        row["at"] = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return rows


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that each notebook begins with; the first look downloads it."""
    folder = tmp_path_factory.mktemp("downloaded")
    with harvester.sample_exchange() as exchange:
        archive = harvester.open(folder / "made-up", settings=exchange.settings)
        archive.backfill("XBT/USD", since="2026-01-21")
    return folder / "made-up"


@pytest.fixture
def begun(downloaded: Path, tmp_path: Path) -> Path:
    """A folder where a notebook finds the trades that it would download."""
    shutil.copytree(downloaded, tmp_path / "made-up")
    return tmp_path


def days(history: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in history:
        found[f"{row['at']:%Y-%m-%d}"].append(row)
    return found


def test_the_first_look_fetches_proves_and_draws(
    tmp_path: Path, history: list[dict[str, Any]]
) -> None:
    reported = "[result.trades, len(report.faults), candles.iloc[0].to_dict(), len(candles)]"
    run = Run("01-first-look", tmp_path, reported)
    begin = history[0]["at"].replace(hour=0, minute=0, second=0)
    first = [row for row in history if (row["at"] - begin).total_seconds() < 4 * 3600]
    trades, faults, candle, candles = run.answer
    assert (trades, faults, candles) == (200_000, 0, 60)
    assert candle.pop("vwap") == pytest.approx(
        float(sum(row["price"] * row["volume"] for row in first))
        / float(sum(row["volume"] for row in first)),
        rel=1e-12,
    )
    assert candle == {
        "open": float(first[0]["price"]),
        "high": float(max(row["price"] for row in first)),
        "low": float(min(row["price"] for row in first)),
        "close": float(first[-1]["price"]),
        "volume": float(sum(row["volume"] for row in first)),
        "count": len(first),
    }
    [shown] = run.outputs("chart")
    assert "plotly" in shown["data"]["text/html"].lower()
    assert "XBTUSD" in run.outputs("held")[0]["data"]["text/html"]
    assert run.printed() == []


def test_beyond_720_finds_all_values_equal_on_the_overlap(
    begun: Path, history: list[dict[str, Any]]
) -> None:
    busiest = "max(zip(kraken, built), key=lambda pair: pair[0][7])"
    reported = f"[compared, len(different), *{busiest}, reach['the archive has'].to_dict()]"
    run = Run("02-beyond-720", begun, reported)
    compared, different, kraken_candle, archive_candle, held = run.answer
    assert (compared, different) == (720 * 7, 0)
    minute = [row for row in history if row["at"].timestamp() // 60 * 60 == kraken_candle[0]]
    assert Decimal(archive_candle[1]) == Decimal(kraken_candle[1]) == minute[0]["price"]
    assert archive_candle[7] == kraken_candle[7] == len(minute)
    assert (
        Decimal(archive_candle[6])
        == Decimal(kraken_candle[6])
        == sum(row["volume"] for row in minute)
    )
    seconds = [int(row["at"].timestamp()) for row in history]
    assert held == {
        name: len({second // width for second in seconds})
        for name, width in {
            "1s": 1, "1m": 60, "5m": 300, "7m": 420, "15m": 900, "90m": 5400,
        }.items()
    }  # fmt: skip
    assert run.printed() == []


def test_order_flow_counts_buyers_sizes_and_hours(
    begun: Path, history: list[dict[str, Any]]
) -> None:
    reported = "[days.imbalance.tolist(), sizes.trades.to_dict(), hours.volume.tolist()]"
    run = Run("03-order-flow", begun, reported)
    imbalance, sizes, hours = run.answer
    expected = []
    for rows in days(history).values():
        signed = [row["volume"] * (1 if row["side"] == "buy" else -1) for row in rows]
        expected.append(float(sum(signed)) / float(sum(row["volume"] for row in rows)))
    assert imbalance == pytest.approx(expected, rel=1e-12)
    powers = Counter(row["volume"].adjusted() for row in history)
    assert list(sizes.values()) == [powers[power] for power in sorted(powers)]
    by_hour: defaultdict[int, Decimal] = defaultdict(Decimal)
    for row in history:
        by_hour[row["at"].hour] += row["volume"]
    assert hours == [float(by_hour[hour]) for hour in range(24)]
    assert run.printed() == []


def test_your_own_tools_make_the_same_candles(begun: Path, history: list[dict[str, Any]]) -> None:
    run = Run("04-your-own-tools", begun, "[first, second, third]")
    expected = [
        [
            day,
            rows[0]["price"],
            max(row["price"] for row in rows),
            min(row["price"] for row in rows),
            rows[-1]["price"],
            sum(row["volume"] for row in rows),
            len(rows),
        ]
        for day, rows in days(history).items()
    ]
    for found in run.answer:
        assert [[row[0], *map(Decimal, row[1:])] for row in found] == expected
    assert run.printed() == []


WIDTH_S = 300


class Candle(NamedTuple):
    """Five minutes: the last price in tenths of a dollar, and the mean prices of takers."""

    price_steps: int
    bought_at: float
    sold_at: float


def five_minutes(history: list[dict[str, Any]]) -> list[Candle]:
    """All candles of the ten days; where nobody bought or sold, the next candle's price counts."""
    begin = datetime(2026, 1, 21, tzinfo=UTC)
    rows: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in history:
        rows[int((row["at"] - begin).total_seconds()) // WIDTH_S].append(row)
    closes, price_steps = [], 0
    for place in range(10 * 86_400 // WIDTH_S):
        price_steps = int(rows[place][-1]["price"] * 10) if rows[place] else price_steps
        closes.append(price_steps)
    candles, means = [], {"buy": closes[-1] / 10, "sell": closes[-1] / 10}
    for place in reversed(range(len(closes))):
        for side in means:
            taken = [row for row in rows[place] if row["side"] == side]
            if taken:
                value = sum(row["price"] * row["volume"] for row in taken)
                means[side] = float(value) / float(sum(row["volume"] for row in taken))
        candles.append(Candle(closes[place], means["buy"], means["sell"]))
    return candles[::-1]


def backtest(candles: list[Candle], fast: int, slow: int) -> tuple[int, list[float], float]:
    """Orders, one dollar without costs after each candle, and with costs at the end."""
    price_steps = [candle.price_steps for candle in candles]
    orders, free, real, owned = 0, [1.0], 1.0, False
    for place in range(1, len(candles)):
        # What is known when this candle begins.
        known = price_steps[:place]
        wanted = place >= slow and sum(known[-fast:]) * slow > sum(known[-slow:]) * fast
        before, close = price_steps[place - 1] / 10, price_steps[place] / 10
        if wanted and not owned:
            real *= close / candles[place].bought_at * 0.996
        elif owned and not wanted:
            real *= candles[place].sold_at / before * 0.996
        elif owned:
            real *= close / before
        free.append(free[-1] * (close / before if wanted else 1.0))
        orders += wanted != owned
        owned = wanted
    return orders, free, real


def test_the_backtest_counts_orders_and_costs(begun: Path, history: list[dict[str, Any]]) -> None:
    reported = "[best, runs.loc[best].tolist(), runs.loc['6/192'].tolist(), runs['last 720'].max()]"
    run = Run("05-from-720-to-a-backtest", begun, reported)
    best, best_row, other_row, most = run.answer
    candles = five_minutes(history)
    for rule, row in ((best, best_row), ("6/192", other_row)):
        orders, free, real = backtest(candles, *map(int, rule.split("/")))
        seen = free[-1] / free[-720] - 1
        assert row == pytest.approx([orders, seen, free[-1] - 1, real - 1], rel=1e-9)
    assert best_row[1] == most > 0 > best_row[2] > best_row[3]
    [shown] = run.outputs("figure")
    page = shown["data"]["text/html"]
    assert "srcdoc" in page
    assert "plotly" in page
    assert re.findall(r"&lt;(?:script|link)[^&]* (?:src|href)=", page) == []
    assert run.printed() == []


def test_there_are_five_and_the_page_names_them() -> None:
    assert len(NAMES) == 5
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"({name}.ipynb)" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert [cell.outputs for cell in code(notebook)] == [[]] * len(code(notebook))
    assert {cell.execution_count for cell in code(notebook)} == {None}
    assert {**notebook.metadata.kernelspec} == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    assert [cell.metadata for cell in notebook.cells] == [{}] * len(notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_that_its_trades_are_made_up_and_has_one_line_to_change(name: str) -> None:
    notebook = read(name)
    assert "**The trades are made up**" in notebook.cells[0].source
    [lines] = [cell.source.splitlines() for cell in code(notebook) if cell.id == "open"]
    place = lines.index('# Kraken itself: archive, since = harvester.open("data"), "10d"')
    made = 'archive, since = harvester.open("made-up", settings=exchange.settings), "2026-01-21"'
    assert lines[place - 1] == made


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(((?!http)[^)#]+)", text)
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_harvester_is_not_used_by_your_own_tools() -> None:
    cells = {cell.id: cell.source for cell in code(read("04-your-own-tools"))}
    for name in ("duckdb", "polars", "pandas"):
        used = {node.id for node in ast.walk(ast.parse(cells[name])) if isinstance(node, ast.Name)}
        assert used & {"harvester", "archive", "exchange"} == set()


def outputs_of(folder: Path, *sources: str) -> list[list[Any]]:
    """Run cells in one kernel; returns the outputs of each."""
    cells = [nbformat.v4.new_code_cell(source) for source in (STRICT, *sources)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [list(cell.outputs) for cell in cells[1:]]


OPEN = """
import harvester

exchange = harvester.sample_exchange(2_000, 1, folder="exchange")
archive = harvester.open("data", settings=exchange.settings)
"""
CALLS = [
    'archive.import_csv("XBTUSD.csv", progress=True);',
    'archive.backfill("XBT/USD", since="2026-01-21", progress=True);',
    "archive.refresh(progress=True, check=False);",
    "archive.verify(progress=True);",
    "archive.digest(progress=True);",
    "archive.rollup(progress=True);",
    "archive.compact(progress=True);",
]


def test_every_call_that_takes_long_draws_a_bar_to_its_end(tmp_path: Path) -> None:
    rows = "".join(f"{1_704_067_200 + 10 * n},{100 + n},0.5\n" for n in range(100))
    (tmp_path / "XBTUSD.csv").write_text(rows)
    _, *outputs = outputs_of(tmp_path, OPEN, *CALLS)
    bars = [cell[0]["data"]["text/plain"].strip() for cell in outputs]
    counts = [text.partition("  ")[0] for text in bars]
    assert counts == ["1 of 1 pairs ended"] * len(CALLS)
    assert all("1 of 1 pairs ended" in cell[0]["data"]["text/html"] for cell in outputs)
    assert bars[1] == "1 of 1 pairs ended  2,000 trades"
    [_, downloaded] = outputs[1]
    assert downloaded["data"]["text/plain"].startswith("XBTUSD: 2,000 trades in ")
    imported = "".join(output["data"]["text/plain"] for output in outputs[0])
    assert "XBTUSD: 98 of 100 rows imported" in imported


def test_an_error_of_harvester_is_shown_by_its_message_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hundreds of lines of the libraries' code would come before it."""
    # Its history would be written at the end of the tests, when its folder is gone.
    shell = interactiveshell.InteractiveShell(
        config=config.Config({"HistoryManager": {"enabled": False}})
    )
    shell.run_cell(f"import harvester; harvester.open({str(tmp_path)!r}).ohlc('XBT/USD', '1h')")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"NothingStored: the archive at {tmp_path} holds no trades of 'XBT/USD'")
