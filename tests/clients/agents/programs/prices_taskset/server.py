"""The tool's server."""

import verifiers.v1 as vf

PRICES = {"lamp": 12, "table": 30}


class PricesToolset(vf.Toolset[vf.SharedToolsetConfig]):
    """Prices of a shop."""

    TOOL_PREFIX = "shop"

    @vf.tool
    async def price(self, item: str) -> str:
        """Tell the price of an item."""
        if item not in PRICES:
            raise ValueError(f"no item {item!r}; items: {', '.join(PRICES)}")
        return str(PRICES[item])


if __name__ == "__main__":
    PricesToolset.run()
