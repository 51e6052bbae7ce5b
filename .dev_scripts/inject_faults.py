"""Inject known faults one at a time and see that a test catches each.

Run from a clone: ``python .dev_scripts/inject_faults.py [WORD ...]``; words choose faults by what
their description contains. It works on a copy of the tracked files, prints a line a fault and
fails where one survives. A fault survives as well when its test does not pass without it.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """A change of one place, and the test that must fail with it.

    Attributes:
        what: The fault in words.
        file: Below ``mmscheme/``.
        old: Text that is there once.
        new: Takes its place.
        test: Below ``tests/``.
    """
    what: str
    file: str
    old: str
    new: str
    test: str


def _former(name: str) -> str:
    return f'test_models/test_faults_schemeformer.py::{name}'


FAULTS = [
    Fault('drop path is never applied', 'models/backbones/schemeformer.py',
          'branch = self.drop_path(branch)', 'branch = branch',
          _former('test_drop_path_skips_whole_branches_of_samples')),
    Fault('C++ mixer under autocast', 'ops/dispatch.py',
          "if torch.is_autocast_enabled('cpu'):", 'if False:',
          'test_ops/test_mlp.py::test_autocast_keeps_out_what_computes_in_float32'),
    Fault('float64 cast under autocast', 'ops/mlp.py', ' and x.dtype != torch.float64', '',
          'test_ops/test_mlp.py::test_autocast_leaves_float64_alone'),
    Fault('forward-pre hooks not seen', 'layers/fusable.py', "own['_forward_pre_hooks'] or ", '',
          'test_layers/test_fusable.py'),
    Fault('backward-pre hooks not seen', 'layers/fusable.py', "own['_backward_pre_hooks'] or ",
          '', 'test_layers/test_fusable.py'),
    Fault('global forward-pre hooks not seen', 'layers/fusable.py',
          'torch_module._global_forward_pre_hooks or ', '', 'test_layers/test_fusable.py'),
    Fault('global backward-pre hooks not seen', 'layers/fusable.py',
          'torch_module._global_backward_pre_hooks or ', '', 'test_layers/test_fusable.py'),
    Fault('StarReLU starts with a bias of the other sign', 'layers/activations.py',
          'bias: float = -0.4472', 'bias: float = 0.4472',
          _former('test_star_relu_starts_with_mean_zero_and_variance_one')),
    Fault('GroupNorm with another eps', 'models/backbones/schemeformer.py',
          "norm_cfg: dict = dict(type='GN', num_groups=1)",
          "norm_cfg: dict = dict(type='GN', num_groups=1, eps=1e-6)",
          _former('test_group_norms_have_torchs_eps')),
    Fault('position embedding resized bilinearly', 'models/backbones/schemeformer.py',
          "mode='bicubic'", "mode='bilinear'",
          _former('test_the_position_embedding_is_resized_bicubically')),
    Fault('layer scale of S36 as of S12', 'models/backbones/schemeformer.py',
          's36=dict(depths=(6, 6, 18, 6), embed_dims=_SMALL, token_mixers=_PPAA, '
          'layer_scale_init=1e-6)',
          's36=dict(depths=(6, 6, 18, 6), embed_dims=_SMALL, token_mixers=_PPAA, '
          'layer_scale_init=1e-5)', _former('test_layer_scale_of_the_family')),
    Fault('class-only mixers of VOLO get CCA', 'models/utils/trial.py',
          "    if extra == len(row):\n        return None, ''\n", '',
          _former('test_class_blocks_of_volo_have_no_positions')),
    Fault('class tokens taken for positions', 'models/utils/trial.py',
          '    return extra, \'\'\n', '    return 0, \'\'\n',
          'test_models/test_support_matrix.py::test_class_tokens_alone_change_no_gram_matrix'
          '[mmpretrain ViT]'),
    Fault('a norm behind the second layer is lost', 'models/utils/plug_in_mixer.py',
          '        if behind:', '        if False:',
          'test_models/test_scheme_wrapper.py::'
          'test_dense_and_with_copied_weights_it_is_the_stock_backbone[timm RepViT]'),
    Fault('values of a gated FFN taken for its gate', 'models/utils/plug_in_mixer.py',
          'self.act(gate) * values', 'self.act(values) * gate',
          'test_models/test_plug_in.py::test_gate_and_values_have_the_same_blocks'),
    Fault('export: class-wise NMS made agnostic', 'deploy/graphs.py',
          "if not self.cfg['agnostic']:", 'if False:',
          'test_deploy/test_graphs.py::test_boxes_suppress_those_of_their_class'),
    Fault('export: BGR order', 'deploy/graphs.py', 'image if self.rgb else image.flip(1)',
          'image', 'test_deploy/test_graphs.py::test_colours_are_those_of_the_preprocessor'),
    Fault('export: RGB order', 'deploy/graphs.py', 'image if self.rgb else image.flip(1)',
          'image.flip(1)',
          'test_deploy/test_graphs.py::test_colours_are_those_of_the_preprocessor'),
    Fault('fold drops an eps that is not the default', 'deploy/fold.py', 'norm.eps, affine=False',
          'affine=False', 'test_deploy/test_fold.py::test_norms_keep_their_eps'),
    Fault('preflight: missing file of init_cfg', 'checks/checkpoint.py',
          "if is_pretrained(node.get('init_cfg'))", 'if False',
          'test_checks/test_check_run.py::test_files_that_a_config_names'),
    Fault('preflight: class id equal to num_classes', 'checks/data.py', 'i >= num_classes and',
          'i > num_classes and',
          'test_checks/test_check_run.py::test_the_first_label_that_no_class_has'),
    Fault('preflight: label of an image equal to the number of classes', 'checks/data.py',
          'not 0 <= label < len(names)', 'not 0 <= label <= len(names)',
          'test_checks/test_check_run.py::test_the_first_label_of_images_that_no_class_has'),
    Fault("OneCycle's total_steps not scaled", 'apis/config.py', "('T_max', 'total_steps')",
          "('T_max', )", 'test_apis/test_config.py::test_schedulers_follow_another_length'),
    Fault('publish --half halves integers', 'apis/publish.py',
          'if weight.dtype != torch.float32:', 'if False:',
          'test_apis/test_publish.py::test_only_float32_is_halved'),
    Fault("safe loading: others' safe globals stay", 'utils/checkpoint_io.py',
          '    torch.serialization.clear_safe_globals()\n    torch.serialization.add_safe',
          '    torch.serialization.add_safe',
          'test_checkpoint.py::test_what_others_allowed_does_not_count'),
    Fault('safe loading: all safe globals are taken over', 'utils/checkpoint_io.py',
          "[a for a in allowed if getattr(a, '__module__', '').startswith('torch.')]",
          '[*allowed]', 'test_checkpoint.py::test_what_others_allowed_does_not_count'),
    Fault('safe loading: our stand-ins stay allowed', 'utils/checkpoint_io.py',
          '        torch.serialization.clear_safe_globals()\n', '',
          'test_checkpoint.py::test_what_others_allowed_does_not_count'),
    Fault('conversion: the worst units are cut out', 'converters/block_diagonal.py',
          'argsort(descending=True)[:cell.stop', 'argsort()[:cell.stop',
          'test_converters/test_block_diagonal.py::test_the_units_that_matter_are_kept'),
    Fault('conversion: the worst units are fitted', 'converters/block_diagonal.py',
          'part.argsort(descending=True)', 'part.argsort()',
          'test_converters/test_block_diagonal.py::test_the_units_that_matter_are_kept'),
]


def passes(tree: Path, tests: List[str]) -> bool:
    """Return True if tests of a copy pass."""
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider',
               *(f'tests/{t}' for t in tests)]
    environment = dict(os.environ, PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE='1')
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f'{" ".join(command)}:\n{done.stdout}{done.stderr}')
    return done.returncode == 0


def main() -> None:
    """Inject the faults that are asked for and fail where one survives."""
    chosen = [f for f in FAULTS if not sys.argv[1:] or any(w in f.what for w in sys.argv[1:])]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True,
                                   check=True, text=True).stdout.strip('\0').split('\0'):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name, follow_symlinks=False)
        if not passes(tree, sorted({f.test for f in chosen})):
            sys.exit('some of the tests fail without a fault')
        for fault in chosen:
            path = tree / 'mmscheme' / fault.file
            text = path.read_text()
            if text.count(fault.old) != 1:
                sys.exit(f'{fault.what}: its text is {text.count(fault.old)} times in {fault.file}')
            path.write_text(text.replace(fault.old, fault.new))
            caught = not passes(tree, [fault.test])
            path.write_text(text)
            print(f'{"caught  " if caught else "SURVIVED"}  {fault.what}: {fault.test}', flush=True)
            survivors += [] if caught else [fault.what]
    print(f'{len(chosen) - len(survivors)} of {len(chosen)} faults are caught')
    if survivors:
        sys.exit(1)


if __name__ == '__main__':
    main()
