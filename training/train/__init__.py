"""The training run: `splatmend train`, `train-adapter`, `train-turbo`, `fit` and others.

`options` has the options of each job, `fitting` fits them to pictures and machine, `commands` runs
a job. `loop` trains, `run_state` saves and resumes, `validation` judges, `muon` is an optimiser.
`fit` makes an adapter of one avatar. `loop` needs accelerate, so nothing is imported here.
"""
