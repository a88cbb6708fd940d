"""Cost of a model before training: parameters, FLOPs, slots, memory.

A FLOP is an addition or a multiplication: a multiply-add counts two. Only matrix products, convolutions and attention
are counted, as `torch.utils.flop_counter` does.
"""
