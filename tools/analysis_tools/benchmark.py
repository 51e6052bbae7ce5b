"""Times ours against others: python tools/analysis_tools/benchmark.py --help."""
from mmscheme.analysis.benchmark import main

if __name__ == '__main__':
    main()
