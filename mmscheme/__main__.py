"""The tools of an installed mmscheme: python -m mmscheme TOOL ..."""
import importlib
import sys

TOOLS = dict(
    train='mmscheme.apis.train',
    test='mmscheme.apis.test',
    make_scenes='mmscheme.apis.make_scenes',
    get_flops='mmscheme.analysis.complexity',
    browse_dataset='mmscheme.analysis.browse_dataset',
    predict='mmscheme.apis.inference',
    fold='mmscheme.deploy.fold',
    export='mmscheme.deploy.export',
    predict_exported='mmscheme.deploy.predictor',
    metaformer2mmscheme='mmscheme.apis.convert:metaformer_to_mmscheme',
    mmscheme2timm='mmscheme.apis.convert:mmscheme_to_timm',
    dense2block_diagonal='mmscheme.apis.convert:dense_to_block_diagonal',
    publish_model='mmscheme.apis.publish',
    check_config='mmscheme.apis.check_config',
    plot_mixing_weights='mmscheme.analysis.cca_plot',
    benchmark='mmscheme.analysis.benchmark',
    pareto='mmscheme.analysis.pareto',
    sweep='mmscheme.analysis.sweep')


def main() -> None:
    """Hands the command line to the tool it names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:
        print(f'usage: python -m mmscheme {{{",".join(TOOLS)}}} ...; each explains itself with '
              '--help', file=sys.stderr)
        sys.exit(0 if sys.argv[1:] in (['-h'], ['--help']) else 2)
    tool = sys.argv.pop(1)
    sys.argv[0] = f'python -m mmscheme {tool}'
    module, _, function = TOOLS[tool].partition(':')
    getattr(importlib.import_module(module), function or 'main')()


if __name__ == '__main__':
    main()
