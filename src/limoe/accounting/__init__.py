"""What a model costs before it is trained: parameters, FLOPs, slots, memory. Plain arithmetic on a model without data.

A FLOP is an addition or a multiplication: a multiply-add counts two. Only matrix products, convolutions and attention
are counted, as `torch.utils.flop_counter` does.
"""
