"""Names of files."""
import logging

import pytest
from mmengine.logging import MMLogger

from mmscheme.utils.output_files import check_not_read, replacing, tell_apart
from mmscheme.utils.quiet import quiet


@pytest.mark.parametrize('names, expected', [
    (['x.png', 'y.png', 'a/x.png'], ['x.png', 'y.png', 'a/x.png']),
    (['x.png', 'x.png', 'x.png'], ['x.png', 'x_2.png', 'x_3.png']),
    # Who has a name that nobody else has keeps it.
    (['x.png', 'x.png', 'x_2.png', 'x_2.png'], ['x.png', 'x_3.png', 'x_2.png', 'x_2_2.png']),
    (['a.d/x', 'a.d/x'], ['a.d/x', 'a.d/x_2']), ([], [])])
def test_names_are_told_apart(names, expected):
    assert tell_apart(names) == expected


def test_only_what_is_read_is_protected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a', 'b'):
        (tmp_path / name).write_text(name)
    (tmp_path / 'link').symlink_to('a')
    (tmp_path / 'hard').hardlink_to('a')
    for target in ('a', tmp_path / 'a', 'link', 'hard', './a'):
        with pytest.raises(ValueError, match=f'{target}: would replace the config that is read'):
            check_not_read(target, checkpoint='b', config='a')
    check_not_read('b', config='a', checkpoint=None)
    check_not_read('new', config='a')
    check_not_read('a', config='missing')


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_a_file_or_folder_is_there_whole_or_not_at_all(tmp_path, kind):
    target = tmp_path / 'new' / 'model.onnx'

    def write(part, fails=False):
        if kind == 'folder':
            part.mkdir()
            part = part / 'inside'
        part.write_text('half')
        if fails:
            raise RuntimeError
        part.write_text('whole')

    with pytest.raises(RuntimeError), replacing(target) as part:
        write(part, fails=True)
    assert list(target.parent.iterdir()) == []
    with replacing(target) as part:
        assert part.suffix == target.suffix and part.parent == target.parent
        write(part)
        assert not target.exists()
    assert list(target.parent.iterdir()) == [target]
    assert (target / 'inside' if kind == 'folder' else target).read_text() == 'whole'


def test_quiet_silences_a_logger_that_has_spoken_and_lets_it_speak_again():
    logger, records = MMLogger('a_test', log_level='INFO'), []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    MMLogger._instance_dict['a_test'] = logger  # as get_instance() does
    try:
        logger.info('before')
        with quiet():
            logger.info('inside')
            with quiet():
                pass
            logger.warning('inside')
        logger.info('after')
    finally:
        del MMLogger._instance_dict['a_test']
    assert [r.getMessage() for r in records] == ['before', 'after']
