"""How far the judge can be trusted, in numbers. Arrays in, frozen results out; no Django, no files, no plots.

`rates` one pass rate, `inference` a pass rate from many judge verdicts and few human ones, `agreement` judge against
humans. Every function hands back `result.Estimate`. scipy and statsmodels take 0.4 to 2 s to import, so they are
imported where they are used; importing this package costs numpy only.
"""
