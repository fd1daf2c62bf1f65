"""How a step is computed: one process of plain PyTorch, or DeepSpeed ZeRO over one or more processes."""
