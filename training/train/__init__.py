"""The training run: `splatmend train`, `fit`, `average` and `train-estimator`.

`loop` trains, `run_state` saves and resumes, `validation` judges, `muon` is an optimizer. `fit`
makes an adapter of one avatar. `loop` needs accelerate, so nothing is imported here.
"""
