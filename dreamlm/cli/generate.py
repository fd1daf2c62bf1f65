"""`dreamlm generate`: a trained model continues prompts."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlm.cli.console import Console
from dreamlm.cli.options import (
    CheckpointOption,
    DeviceOption,
    ExtendOption,
    JsonOption,
    RescaleOption,
    RunOption,
    SeedOption,
    assignments,
    layer_choice,
    set_option,
)

if TYPE_CHECKING:
    from dreamlm.core.generation.row import Generation

EXAMPLE = "generate.top_k=40"
"""Of what --set may change."""


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Default: one a line, or JSON lines, on stdin.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="A picture before the prompt, if any; may be repeated."),
    ] = None,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Divides the logits; 0 is greedy.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Nucleus: the token that crosses this probability stays in.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Only the k most probable tokens; 0 is all.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token.")] = False,
    no_repeat_ngram: Annotated[
        int | None, typer.Option("--no-repeat-ngram", metavar="N", help="No N tokens in a row come twice; 0 is off.")
    ] = None,
    ngram_scope: Annotated[
        str | None, typer.Option("--ngram-scope", metavar="all|output", help="Whether the prompt counts for that.")
    ] = None,
    min_new_tokens: Annotated[int | None, typer.Option("--min-new-tokens", help="No end before that many.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", help="The end after that many.")] = None,
    diffusion_steps: Annotated[
        int | None, typer.Option("--diffusion-steps", metavar="N", help="Steps for a block of a diffusion model.")
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option("--confidence", metavar="probability|entropy", help="What makes one of its tokens sure."),
    ] = None,
    show_denoising: Annotated[
        bool, typer.Option("--show-denoising", help="Watch on stderr how a diffusion model fills in its blocks.")
    ] = False,
    show_dreams: Annotated[
        bool, typer.Option("--show-dreams", help="Show on stderr what a dreaming model dreams of each segment.")
    ] = False,
    dreams_out: Annotated[
        Path | None,
        typer.Option("--dreams-out", metavar="FILE", help="Write its dreams there: .json, .graphml, .png or .html."),
    ] = None,
    dream_neighbours: Annotated[
        int | None,
        typer.Option("--dream-neighbours", min=1, metavar="N", help="Nearest tokens of each role; default 5."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends the text before it; may be repeated.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Texts for each prompt.")] = 1,
    seed: SeedOption = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Prompts written at once.")] = None,
    extend_max_seq_len: ExtendOption = None,
    rescale_layers: RescaleOption = None,
    sets: Annotated[list[str] | None, set_option(EXAMPLE)] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model write: one text for each prompt.

    What is not given here is as in the preset's generate section. With --json, one line of JSON for each text. With
    --image, one text for each picture: a caption, or what goes on behind the prompt.
    """
    from dreamlm.cli.denoising import require_blocks, watching
    from dreamlm.cli.dreams import DreamLog
    from dreamlm.cli.places import model_place
    from dreamlm.cli.prompts import batches, chosen_prompts, prompts_for
    from dreamlm.core.garbage import only_new_garbage
    from dreamlm.core.generation.generate import generate as continue_prompts
    from dreamlm.core.training.memory import WRITING, within_memory
    from dreamlm.presets.layers import require_read
    from dreamlm.presets.resolve import resolve_values
    from dreamlm.wiring.loading import load
    from dreamlm.wiring.pictures import opened_pictures

    console = Console(as_json)
    require_read(sets or (), ["generate"], EXAMPLE)
    options = {
        "--temperature": ("temperature", temperature),
        "--top-p": ("top_p", top_p),
        "--top-k": ("top_k", top_k),
        "--greedy": ("greedy", greedy or None),
        "--no-repeat-ngram": ("no_repeat_ngram", no_repeat_ngram),
        "--ngram-scope": ("ngram_scope", ngram_scope),
        "--min-new-tokens": ("min_new_tokens", min_new_tokens),
        "--max-new-tokens": ("max_new_tokens", max_new_tokens),
        "--diffusion-steps": ("denoising.steps", diffusion_steps),
        "--confidence": ("denoising.confidence", confidence),
        "--stop": ("stop", stop or None),
        "--seed": ("seed", seed),
        "--batch-size": ("rows", batch_size),
    }
    wanted = prompts_for(image, prompts or ()) if image else chosen_prompts(prompts or (), sys.stdin)
    dreams = DreamLog(console, show_dreams, dreams_out, dream_neighbours)
    loaded = load(
        model_place(checkpoint, run),
        device or "auto",
        extend_max_seq_len=extend_max_seq_len,
        rescale_layers=layer_choice(rescale_layers),
    )
    about_blocks = {
        "--diffusion-steps": diffusion_steps,
        "--confidence": confidence,
        "--show-denoising": show_denoising or None,
    }
    require_blocks(loaded.model, about_blocks)
    pictures = [one for one in opened_pictures(loaded.model, image or ()) for _ in range(samples)]
    names = [name for name in image or () for _ in range(samples)]
    values = loaded.preset.model_dump(mode="json")
    config = resolve_values(values, str(loaded.folder), [*(sets or ()), *assignments("generate", options)]).generate
    alone = len(image or prompts or ()) * samples == 1
    streamed = alone and not as_json and not show_denoising and not dreams.take_the_screen and sys.stdout.isatty()
    repeated = (prompt for prompt in wanted for _ in range(samples))
    written = 0
    with within_memory(WRITING.failure), only_new_garbage(), dreams.watching(loaded) as on_segments:
        for batch in batches(repeated, config.rows):
            dreams.begin(batch)
            if streamed:
                console.raw(_before(batch[0], image[0] if image else None))
                [text] = continue_prompts(
                    loaded.model,
                    loaded.tokenizer,
                    batch,
                    config,
                    lambda prompt, piece: console.raw(piece),
                    on_segments=on_segments,
                    pictures=pictures,
                )
                console.result("")
                _warn_of_dropped(console, text)
                dreams.end(text.text)
                return
            with watching(console, loaded.tokenizer, batch, written, show_denoising) as watcher:
                texts = continue_prompts(
                    loaded.model,
                    loaded.tokenizer,
                    batch,
                    config,
                    watcher.on_text,
                    on_segments=on_segments,
                    on_blocks=watcher.on_blocks,
                    pictures=pictures[written : written + len(batch)],
                    first_prompt=written,
                )
            for text in texts:
                dreams.end(text.text)
                _tell(console, text, names[written] if names else None, first=written == 0)
                written += 1


def _tell(console: Console, text: "Generation", image: Path | None, first: bool) -> None:
    if console.as_json:
        console.json_line(text if image is None else {"image": str(image), **asdict(text)})
        return
    _warn_of_dropped(console, text)
    # Texts have empty lines of their own; a rule keeps two of them apart.
    if not first:
        console.result("---")
    console.result(_before(text.prompt, image) + text.text)


def _warn_of_dropped(console: Console, text: "Generation") -> None:
    if text.dropped_prompt_tokens:
        console.warning(f"the model could not read the prompt's first {text.dropped_prompt_tokens} tokens")


def _before(prompt: str, image: Path | None) -> str:
    """What is printed before the text that the model writes."""
    return prompt if image is None else f"{image}: {prompt}"
