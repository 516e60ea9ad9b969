"""Answers of experiments: `conf/experiment/x.yaml` is answered by the one public function of `x.py`, from the runs that it left."""
