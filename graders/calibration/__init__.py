"""How far the judge can be trusted, in numbers. Arrays in, frozen results out; no Django, no files, no plots.

`rates` and `passes` pass rates, `means` people's scores, `inference` one from many judge verdicts and few human ones,
`weighted` when these were not drawn evenly (`by_chance` agreement and ranking), `sampling` how to draw them and `planning`
how many; `alpha` and `icc` people among themselves, `noise` how many of them it takes; `agreement`, `rank`, `errors`,
`decision`, `reliability` judge against people; `alt_test` whether it may stand in for one; `comparison` which of two is
better; `recalibration` a map from its scores to theirs; `probes` (and `texts`) what else moves it; `ranking` an order from
comparisons in pairs. Figures are `result.Estimate`, their intervals come from `resample`. scipy and statsmodels take 0.4 to
2 s to import, so they are imported where they are used; importing this package costs numpy only.
"""
