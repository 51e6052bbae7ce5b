"""Pages of the site that nobody writes; mkdocs runs this (`hooks` in mkdocs.yml).

The first page is README.md, what pages link to outside of docs/ comes along, and the reference
is made from the tools' own --help and from the registries.
"""
import contextlib
import importlib.util
import io
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import yaml
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r'(\]\()([^)\s#]+)((?:#[^)\s]*)?\))')
FENCE = re.compile(r'(^```.*?^```)', re.M | re.S)
# Pages outside of docs/: where they stand in the repository, by where they go on the site.
OUTSIDE = {'index.md': 'README.md', 'CHANGELOG.md': 'CHANGELOG.md',
           'CONTRIBUTING.md': 'CONTRIBUTING.md', 'configs/README.md': 'configs/README.md',
           'configs/plug_in/README.md': 'configs/plug_in/README.md'}


def to_source(uri: str) -> Path:
    """Return the file of the repository that a page of the site is made from."""
    return ROOT / OUTSIDE[uri] if uri in OUTSIDE else ROOT / 'docs' / uri


def to_uri(source: Path) -> str:
    """Return where a file of the repository is on the site; code and licence are shown as text."""
    name = source.relative_to(ROOT).as_posix()
    found = {path: uri for uri, path in OUTSIDE.items()}.get(name)
    if found:
        return found
    return name[5:] if name.startswith('docs/') else f'files/{name}' + (
        '' if source.suffix in ('.png', '.svg') else '.txt')


def map_links(text: str, uri: str) -> Iterator[Tuple[str, Path, str]]:
    """Yield link, file and the site's link of each link of a page to a file."""
    for match in LINK.finditer(FENCE.sub('', text)):
        if re.match(r'[a-z]+:', match[2]):
            continue
        target = (to_source(uri).parent / match[2]).resolve()
        if target.is_file() and target.is_relative_to(ROOT):
            yield match[2], target, posixpath.relpath(to_uri(target), posixpath.dirname(uri) or '.')


def tool_helps() -> Iterator[Tuple[str, str, str]]:
    """Yield the path, the name after ``python -m mmscheme`` and the help of each tool."""
    from mmscheme.__main__ import find_tools
    names = {path.resolve(): name for name, path in find_tools().items()}
    columns, argv = os.environ.get('COLUMNS'), sys.argv
    os.environ['COLUMNS'] = '88'
    try:
        for path in sorted((ROOT / 'tools').rglob('*.py'), key=lambda p: (len(p.parts), p)):
            if path.stem == 'launch':  # torchrun's
                continue
            spec = importlib.util.spec_from_file_location(f'tools_{path.stem}', path)
            module, out = importlib.util.module_from_spec(spec), io.StringIO()
            spec.loader.exec_module(module)
            sys.argv = [path.relative_to(ROOT).as_posix(), '--help']
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                module.main()
            if not out.getvalue().startswith('usage:'):
                raise ValueError(f'{path}: --help printed no usage')
            yield sys.argv[0], names.get(path.resolve(), ''), out.getvalue()
    finally:
        sys.argv = argv
        os.environ.pop('COLUMNS') if columns is None else os.environ.update(COLUMNS=columns)


def tools_page() -> str:
    """Return the page of all tools, with their own help."""
    lines = ['# Tools', '', 'What each tool prints with `--help`. In a clone a tool is '
             '`python tools/...`, anywhere else `python -m mmscheme NAME`.', '']
    for path, name, text in tool_helps():
        lines += [f'## {path}', '', f'`python -m mmscheme {name}`' if name else '', '',
                  '```text', text.rstrip(), '```', '']
    return '\n'.join(lines)


def types_page() -> str:
    """Return the page of all types that mmscheme registers."""
    from mmengine.registry import Registry

    import mmscheme
    from mmscheme import registry
    mmscheme.register_all_modules(init_default_scope=False)
    lines = ['# Registered types', '', 'Names for `type=` in a config of any OpenMMLab scope; '
             'nothing has to be imported.', '', '| type | registry | what it does |',
             '| --- | --- | --- |']
    for found in (value for value in vars(registry).values() if isinstance(value, Registry)):
        for key, value in sorted(found.module_dict.items()):
            if not value.__module__.startswith('mmscheme'):
                continue  # mmengine's own registry is there as a parent
            first = (value.__doc__ or '').strip().split('\n\n')[0].replace('\n', ' ')
            first = ' '.join(re.sub(r':\w+:`~?(?:[\w.]+\.)?(\w+)`', r'`\1`', first).split())
            lines.append(f'| `mmscheme.{key}` | {found.name} | {first} |')
    return '\n'.join(lines) + '\n'


def zoo_page() -> str:
    """Return the page of all configs, one row each, from the metafiles of model-index.yml."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    models = [model for path in index['Import']
              for model in yaml.safe_load((ROOT / path).read_text())['Models']]
    metrics = {name: {k: v for result in model['Results']
                      for k, v in result.get('Metrics', {}).items()}
               for name, model in ((m['Name'], m) for m in models)}
    trained = any(metrics.values())
    lines = ['# Model zoo', '', 'From the metafiles that `mim` reads. FLOPs there are '
             '[multiply-adds](glossary.md#multiply-adds).'
             + ('' if trained else ' No config has published weights yet; what small trainings '
                'reached is in [Evidence](evidence.md).'), '',
             '| config | task | data | parameters | multiply-adds | input |'
             + (' result |' if trained else ''),
             '| --- | --- | --- | ---: | ---: | --- |' + (' --- |' if trained else '')]
    for model in sorted(models, key=lambda m: not metrics[m['Name']]):
        data, result = model['Metadata'], model['Results'][0]
        row = [f'[{model["Name"]}]({to_uri(ROOT / model["Config"])})', result['Task'],
               result['Dataset'], f'{data["Parameters"] / 1e6:.1f} M',
               f'{data["FLOPs"] / 1e9:.1f} G', 'x'.join(map(str, data['Input']))]
        if trained:
            row.append(', '.join(f'{k} {v}' for k, v in metrics[model['Name']].items()))
        lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines) + '\n'


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and what they link to."""
    for uri, path in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text()))
    for uri, make in (('reference/tools.md', tools_page), ('reference/types.md', types_page),
                      ('model_zoo.md', zoo_page)):
        files.append(File.generated(config, uri, content=make()))
    pages: List[Any] = [file for file in files if file.is_documentation_page()]
    for path in {path for page in pages for _, path, _ in map_links(
            page.content_string, page.src_uri)} | set((ROOT / 'configs').rglob('*.py')):
        uri = to_uri(path)
        if uri not in files.src_uris:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Point links to files of the repository to where they are on the site."""
    uri = page.file.src_uri
    if uri not in OUTSIDE and not (ROOT / 'docs' / uri).is_file():
        return markdown
    moved = {link: new for link, _, new in map_links(markdown, uri)}
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda m: m[1] + moved.get(m[2], m[2]) + m[3], part)
                  for part in parts[::2]]
    return ''.join(parts)
