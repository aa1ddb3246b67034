"""Names of a pair in other programs: ccxt and freqtrade, LEAN."""

from __future__ import annotations

from harvester.errors import UsageError
from harvester.kraken.pairs import Pair

# ccxt, and so freqtrade, has other names than Kraken for these currencies.
_CCXT_CURRENCIES = {
    "LUNA": "LUNC",
    "LUNA2": "LUNA",
    "REP": "REPV1",
    "REPV2": "REP",
    "UST": "USTC",
    "XBT": "BTC",
    "XDG": "DOGE",
}


def ccxt_symbol(pair: Pair) -> str:
    """The pair as ccxt and freqtrade write it: BTC/USD for XBT/USD.

    Raises:
        UsageError: the archive does not know the pair's base and quote currency.
    """
    return "/".join(_CCXT_CURRENCIES.get(name, name) for name in _base_and_quote(pair))


def lean_symbol(pair: Pair) -> str:
    """The pair as LEAN's database of Kraken's symbols writes it: Kraken's names, but BTC for XBT.

    ccxt's names do not fit here: LEAN's LUNAUSD and REPUSD are Kraken's LUNA and REP, which ccxt
    calls LUNC and REPV1.

    Raises:
        UsageError: the archive does not know the pair's base and quote currency.
    """
    return "".join("BTC" if name == "XBT" else name for name in _base_and_quote(pair)).lower()


def _base_and_quote(pair: Pair) -> tuple[str, str]:
    """Base and quote currency, by Kraken's names."""
    base, slash, quote = pair.wsname.partition("/")
    if not slash:
        raise UsageError(
            f"the base and quote currency of {pair.altname} are not known here: "
            f"`harvester pairs {pair.altname} --update` asks the exchange"
        )
    return base, quote
