"""Says what torch.compile cost: at the first step, and whenever a micro-batch of another shape compiles again."""

from train.callbacks.callback import Callback, TrainerInterface
from train.callbacks.console import Screen


class CompileReport(Callback):
    """Prints and logs (event `compile`) graphs, seconds and the micro-batch's shape, after a step that compiled."""

    main_rank_only = True

    def __init__(self) -> None:
        self._seen = (0, 0.0)  # graphs and seconds that have been reported

    def on_update(self, trainer: TrainerInterface) -> None:
        compilation = trainer.engine.compilation
        if compilation is None or compilation.num_graphs == self._seen[0]:
            return
        graphs, seconds = compilation.num_graphs - self._seen[0], compilation.seconds - self._seen[1]
        again = "" if self._seen == (0, 0.0) else " again, for another shape"
        self._seen = (compilation.num_graphs, compilation.seconds)
        shape = " x ".join(map(str, compilation.shape))
        Screen(highlight=False, soft_wrap=True).print(
            f"step {trainer.step}: compiled {graphs} graphs{again} in {seconds:.0f} s, for micro-batches of {shape}",
            markup=False,
        )
        trainer.folder.log_event(
            "compile", step=trainer.step, graphs=graphs, seconds=round(seconds, 1), shape=list(compilation.shape)
        )
