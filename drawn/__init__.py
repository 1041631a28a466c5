"""Drawn speakers and sounding objects whose mouths, words and colours are known, and the measures that know them."""
