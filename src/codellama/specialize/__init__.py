"""Figure 2 of the paper: a general Llama becomes a Code Llama.

    corpus/        files, wheels, repositories → clean, licensed, deduplicated documents
    fim, pack, dataset   documents → training rows; every draw a pure function of the recipe
    recipe, stages  the science of a stage, frozen; the paper's own and `smol-135m`
    forward, lora, optimizer, trainer, checkpoint, run_log   the loop: exact resume, one loss, any
                   method
    export         the trained weights as a ModelFile, for GGUF and Hugging Face folders

Needs PyTorch (`pip install 'codellama[train]'`) and neither the engine nor the native code; whoever
generates or executes is passed in as a callable.
"""
