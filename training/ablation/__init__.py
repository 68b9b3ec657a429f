"""The paper's ablation tables: each row is a run of one model, measured beside the paper's values."""
