"""What maintainers run: reference results, the documentation's pages, campaigns, the recipe of `tiny`."""
