# Open-Sora-Plan v1.1.0, every step computed.
_base_ = "../_base_/open_sora_plan.py"
