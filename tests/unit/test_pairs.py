"""Any spelling that a person types becomes the one pair, and no name becomes a path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harvester.errors import AmbiguousPair, UnknownPair, UnreadableAnswer
from harvester.kraken.pairs import Pair, PairIndex, read_pairs, search

CAPTURES = Path(__file__).parents[2] / "shared" / "kraken"
PEOPLE = {"XBT": "BTC", "XDG": "DOGE"}


def raw(entries: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """AssetPairs' result as it stands in an answer."""
    return {key: msgspec.Raw(json.dumps(entry).encode()) for key, entry in entries.items()}


def captured(name: str) -> dict[str, Any]:
    """The result of a captured answer."""
    path = CAPTURES / name
    if not path.is_file():
        pytest.skip(f"no captured bodies at {CAPTURES}")
    answer = json.loads(path.read_bytes())
    result: dict[str, Any] = answer.get("result", answer)
    return result


def named(*names: tuple[str, str, str]) -> list[Pair]:
    """Pairs of these altnames, keys and wsnames."""
    entries = {key: {"altname": alt, "wsname": ws} for alt, key, ws in names}
    return list(read_pairs(raw(entries)).values())


MARKETS = named(
    ("XBTUSD", "XXBTZUSD", "XBT/USD"),
    ("XBTUSDT", "XBTUSDT", "XBT/USDT"),
    ("XDGUSD", "XDGUSD", "XDG/USD"),
    ("XDGXBT", "XXDGXXBT", "XDG/XBT"),
    ("ETHXBT", "XETHXXBT", "ETH/XBT"),
    ("LUNAUSD", "LUNAUSD", "LUNA/USD"),
    ("LUNA2USD", "LUNA2USD", "LUNA2/USD"),
    ("REPUSD", "XREPZUSD", "REP/USD"),
    ("REPV2USD", "REPV2USD", "REPV2/USD"),
    ("WBTCXBT", "WBTCXBT", "WBTC/XBT"),
)


@pytest.mark.parametrize(
    ("text", "altname"),
    [
        ("XBTUSD", "XBTUSD"),
        ("xbtusd", "XBTUSD"),
        ("XXBTZUSD", "XBTUSD"),
        ("XBT/USD", "XBTUSD"),
        ("BTC/USD", "XBTUSD"),
        ("btcusd", "XBTUSD"),
        ("btc-usd", "XBTUSD"),
        ("btc_usd", "XBTUSD"),
        ("BTC:USD", "XBTUSD"),
        (" btc usd ", "XBTUSD"),
        ("btcusdt", "XBTUSDT"),
        ("DOGE/USD", "XDGUSD"),
        ("dogeusd", "XDGUSD"),
        ("DOGE/BTC", "XDGXBT"),
        ("DOGEXBT", "XDGXBT"),
        ("XDG/BTC", "XDGXBT"),
        ("ETH/BTC", "ETHXBT"),
        ("LUNA/USD", "LUNAUSD"),
        ("lunausd", "LUNAUSD"),
        ("LUNA2/USD", "LUNA2USD"),
        ("luna2usd", "LUNA2USD"),
        ("REP/USD", "REPUSD"),
        ("XREPZUSD", "REPUSD"),
        ("REPV2USD", "REPV2USD"),
        ("repv2/usd", "REPV2USD"),
        ("wbtc/btc", "WBTCXBT"),
    ],
)
def test_what_people_type_is_understood(text: str, altname: str) -> None:
    assert PairIndex(MARKETS).resolve(text).altname == altname


def test_a_name_of_the_exchange_wins_over_what_people_might_mean() -> None:
    pairs = named(("BTCUSD", "BTCUSD", ""), ("XBTUSD", "XXBTZUSD", "XBT/USD"))
    assert [PairIndex(pairs).resolve(text).altname for text in ("btcusd", "xbtusd")] == [
        "BTCUSD",
        "XBTUSD",
    ]


def test_an_altname_wins_over_a_key() -> None:
    pairs = named(("FOO", "BAR", ""), ("BAR", "BAZ", ""))
    assert PairIndex(pairs).resolve("bar").altname == "BAR"


def test_a_pair_known_by_its_altname_alone_is_found_by_what_people_type() -> None:
    assert PairIndex([Pair(altname="XBTUSD")]).resolve("btcusd").altname == "XBTUSD"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("XBTUSX", "; similar names: XBTUSD, XBTUSDT"),
        ("REPV3USD", "; similar names: REPV2USD, REPUSD"),
        ("nothing at all", ""),
        ("", ""),
        ("../../etc/passwd", ""),
    ],
)
def test_an_unknown_name_ends_in_a_message_with_near_ones(text: str, near: str) -> None:
    with pytest.raises(UnknownPair) as caught:
        PairIndex(MARKETS).resolve(text)
    assert str(caught.value) == (
        f"no pair is called {text!r}{near}. `harvester pairs` lists the markets"
    )


# Names that differ only by case are different markets.

TOKEN = ("AAPLxUSD", "AAPLxUSD", "AAPLx/USD")
COIN = ("AAPLXUSD", "XAAPLXZUSD", "AAPLX/USD")


@pytest.mark.parametrize("order", [(TOKEN, COIN), (COIN, TOKEN)])
@pytest.mark.parametrize(
    ("text", "altname"),
    [
        ("AAPLxUSD", "AAPLxUSD"),
        ("AAPLx/USD", "AAPLxUSD"),
        ("AAPLx-USD", "AAPLxUSD"),
        (" AAPLxUSD ", "AAPLxUSD"),
        ("AAPLXUSD", "AAPLXUSD"),
        ("AAPLX/USD", "AAPLXUSD"),
        ("AAPLX USD", "AAPLXUSD"),
        ("XAAPLXZUSD", "AAPLXUSD"),
        ("xaaplxzusd", "AAPLXUSD"),
    ],
)
def test_the_exact_spelling_comes_first(
    text: str, altname: str, order: tuple[tuple[str, str, str], ...]
) -> None:
    assert PairIndex(named(*order)).resolve(text).altname == altname


@pytest.mark.parametrize("text", ["aaplxusd", "Aaplxusd", "aaplx/usd", "AAPLx/usd", "aaplx-USD"])
def test_of_markets_that_differ_by_case_none_is_guessed(text: str) -> None:
    with pytest.raises(AmbiguousPair) as caught:
        PairIndex(named(TOKEN, COIN)).resolve(text)
    assert str(caught.value) == (
        f"{text!r} may mean AAPLXUSD and AAPLxUSD, which differ by case: give the exact spelling"
    )


@pytest.mark.parametrize("text", ["aaplxusd", "AAPLXUSD", "aaplx/usd", "AAPLX/USD"])
@pytest.mark.parametrize("market", [TOKEN, COIN])
def test_another_case_that_fits_one_market_alone_means_it(
    text: str, market: tuple[str, str, str]
) -> None:
    assert PairIndex(named(market)).resolve(text).altname == market[0]


def test_a_key_of_one_market_and_an_altname_of_another_may_differ_by_case() -> None:
    pairs = named(("FOOUSD", "barUSD", ""), ("BARUSD", "BAZUSD", ""))
    assert [PairIndex(pairs).resolve(text).altname for text in ("barUSD", "BARUSD")] == [
        "FOOUSD",
        "BARUSD",
    ]
    with pytest.raises(AmbiguousPair, match="'barusd' may mean BARUSD and FOOUSD"):
        PairIndex(pairs).resolve("barusd")


def test_one_market_under_two_names_that_differ_by_case_is_found() -> None:
    pairs = [Pair(altname="FOOxUSD", key="K"), Pair(altname="FOOXUSD", key="K")]
    assert PairIndex(pairs).resolve("fooxusd").altname == "FOOxUSD"


# The markets of 2021.


def spoken() -> dict[str, set[str]]:
    """Every spelling of the captured markets, in capitals, and the altnames it may stand for."""
    book: dict[str, set[str]] = {}
    for key, entry in captured("assetpairs_2021-12.json").items():
        names = {key, entry["altname"]}
        base, _, quote = entry.get("wsname", "").partition("/")
        if quote:
            sides = [(asset, PEOPLE.get(asset, asset)) for asset in (base, quote)]
            both = [(first, second) for first in sides[0] for second in sides[1]]
            names |= {f"{first}{mark}{second}" for first, second in both for mark in ("/", "", "-")}
        for name in names:
            book.setdefault(name.upper(), set()).add(entry["altname"])
    return book


def test_every_spelling_of_the_markets_of_2021_finds_its_pair() -> None:
    pairs = list(read_pairs(raw(captured("assetpairs_2021-12.json"))).values())
    assert len(pairs) == 402
    wrong = {
        text: found
        for name, altnames in spoken().items()
        for text in [name.lower()]
        if {found := PairIndex(pairs).resolve(text).altname} != altnames
    }
    assert wrong == {}


def test_no_spelling_of_2021_is_ambiguous() -> None:
    assert {name for name, altnames in spoken().items() if len(altnames) > 1} == set()


def test_pairs_of_2025_are_read_with_their_decimals() -> None:
    result = captured("assetpairs_2025_few.json")
    pairs = read_pairs(raw(result))
    assert [
        (pair.key, pair.wsname, pair.pair_decimals, pair.tick_size, pair.status, pair.base)
        for pair in pairs.values()
    ] == [
        (key, e["wsname"], e["pair_decimals"], e["tick_size"], e["status"], e["base"])
        for key, e in result.items()
    ]


# Names that must not become paths.


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        ".hidden",
        "ends.",
        "-rf",
        "_pairs",
        "a/b",
        "../up",
        "a\\b",
        "a b",
        "a\n",
        "a\x00b",
        "a=b",
        "a*b",
        "{a}",
        "m\u00fcller",
        "\uff21\uff22",
        "x" * 41,
    ],
)
def test_a_name_that_is_none_for_a_folder_is_skipped_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"altname": "GOODUSD"}
    assert list(read_pairs(raw({"KEY": {"altname": name}, "GOOD": good}))) == ["GOODUSD"]
    assert caplog.messages == [
        "AssetPairs: 1 of 2 pairs that the exchange lists can't be used: 'KEY' "
        f"(its altname {name!r} is not usable as a folder name): skipped"
    ]


@pytest.mark.parametrize("name", ["XBTUSD", "XBTUSD.d", "1INCHUSD", "AAPLx-USD", "A", "x" * 40])
def test_names_as_the_exchange_gives_them_are_taken(name: str) -> None:
    assert list(read_pairs(raw({"KEY": {"altname": name}}))) == [name]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"wsname": "A/B"},
        {"altname": None},
        {"altname": 7},
        {"altname": "ODD", "wsname": 7},
        {"altname": "ODD", "pair_decimals": "5"},
        {"altname": "ODD", "pair_decimals": -1},
        {"altname": "ODD", "pair_decimals": 10**9},
        {"altname": "ODD", "status": ["online"]},
        None,
        [],
        "ODD",
        7,
    ],
    ids=str,
)
def test_an_odd_row_is_skipped_with_a_warning(
    row: object, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"XXBTZUSD": {"altname": "XBTUSD"}, "ODDKEY": row, "XETHZUSD": {"altname": "ETHUSD"}}
    assert list(read_pairs(raw(rows))) == ["XBTUSD", "ETHUSD"]
    [warning] = caplog.messages
    assert warning.startswith(
        "AssetPairs: 1 of 3 pairs that the exchange lists can't be used: 'ODDKEY' ("
    )


def test_fields_that_are_null_or_missing_cost_no_pair() -> None:
    fields = [name for name in Pair.__struct_fields__ if name not in ("altname", "key")]
    rows = {"NULLS": {"altname": "NULLS"} | dict.fromkeys(fields), "BARE": {"altname": "BARE"}}
    nulls, bare = read_pairs(raw(rows)).values()
    assert nulls == Pair(altname="NULLS", key="NULLS")
    assert bare == Pair(altname="BARE", key="BARE")


def test_a_status_that_is_missing_is_unknown() -> None:
    rows = {"A": {"altname": "A"}, "B": {"altname": "B", "status": "online"}}
    assert [pair.status for pair in read_pairs(raw(rows)).values()] == ["unknown", "online"]


def test_the_second_row_of_an_altname_is_skipped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = {"FIRST": {"altname": "LUNAUSD"}, "SECOND": {"altname": "LUNAUSD"}}
    assert [pair.key for pair in read_pairs(raw(rows)).values()] == ["FIRST"]
    assert caplog.messages == [
        "AssetPairs: 1 of 2 pairs that the exchange lists can't be used: 'SECOND' "
        "('FIRST' has the same altname LUNAUSD): skipped"
    ]


def test_a_list_without_a_row_that_can_be_used_is_no_answer() -> None:
    with pytest.raises(UnreadableAnswer) as caught:
        read_pairs(raw({f"K{n}": {"wsname": "A/B"} for n in range(7)}))
    odd = "(Object missing required field `altname`)"
    assert str(caught.value) == (
        "7 of 7 pairs that the exchange lists can't be used: "
        f"'K0' {odd}, 'K1' {odd}, 'K2' {odd}, 'K3' {odd}, 'K4' {odd} and 2 more"
    )


# Searching.


@pytest.mark.parametrize(
    ("text", "altnames"),
    [
        ("luna", ["LUNA2USD", "LUNAUSD"]),
        ("doge", ["XDGUSD", "XDGXBT"]),
        ("btc/usd", ["XBTUSD", "XBTUSDT"]),
        ("xxbtz", ["XBTUSD"]),
        ("wbtc", ["WBTCXBT"]),
        ("zzz", []),
    ],
)
def test_search_finds_by_any_spelling(text: str, altnames: list[str]) -> None:
    assert [pair.altname for pair in search(text, MARKETS)] == altnames


def test_a_pair_knows_each_of_its_spellings_once() -> None:
    assert [market.spellings for market in MARKETS[:2]] == [
        ["XBTUSD", "XXBTZUSD", "XBT/USD"],
        ["XBTUSDT", "XBT/USDT"],
    ]
