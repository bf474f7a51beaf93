"""The training core: the Llama, Mistral, Qwen2 and Qwen3 decoder over packed rows, with LoRA in its products.

    packing.py      rows → one sequence without padding, positions from 0 in each row
    projection.py   linear layers that read the same input, with their LoRA pairs, as one matrix product
    attention.py    causal attention inside each row of a packed sequence, forward and backward
    pointwise.py    norms, rotary positions, SwiGLU: fused by the compiler on a GPU
    layer.py        a decoder layer, forward and backward, with what it keeps and what it makes again
    head.py         cross entropy at the supervised positions, without a whole matrix of logits
    network.py      the whole of it around a peft model, whose parameters stay where they are

Configuration, names, shapes and files stay peft's: the engine reads a peft model's weights and leaves its
gradients in that model's LoRA parameters. What it cannot do (dropout, DoRA, another architecture) it says,
and the trainer then goes through the model's own forward.
"""
