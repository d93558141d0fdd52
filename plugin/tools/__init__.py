"""Commands beside restoring and serving: measure, bench, convert.

`measure` and `measure_report` compare clips over time, and `plot` draws them. `bench` times models
rung by rung of `bench_ladder`. `convert` translates checkpoints.
"""
