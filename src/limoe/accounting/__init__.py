"""Cost of a model, computed before training and without data: parameters, FLOPs, slots, memory.

A FLOP is an addition or a multiplication: a multiply-add counts two. Only matrix products, convolutions and attention
are counted, as `torch.utils.flop_counter` does.
"""
