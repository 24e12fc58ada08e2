# make demo   certify 20 shipped CIFAR-10 images: table on the terminal, demo.html and demo.png on disk
# make test   every test        make lint   linters and types        make bench   rebuild the CPU tables of docs/benchmarks.md
# make docs   the pages as a site, in build/site: any warning fails it
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*)

.PHONY: sanitize demo test lint bench docs clean
demo: .venv/.run
	$(BIN)/diffsmooth-trt demo

# Two processes of one thread each, a file at a time; `pytest` alone runs the same tests in one process.
test: .venv/.test .venv/.tensorrt .venv/.rtx
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*

bench: .venv/.test
	$(BIN)/python benchmarks/bench_noise.py
	$(BIN)/python benchmarks/bench_cpu.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_demo.py
	$(BIN)/python benchmarks/bench_samples.py
	$(BIN)/python benchmarks/bench_error_rate.py
	$(BIN)/python benchmarks/tables.py

docs: .venv/.docs
	$(BIN)/python -m sphinx -q -W --keep-going --fresh-env --conf-dir docs --doctree-dir build/doctrees . build/site

# The picture of README.md and docs/index.md.
docs/demo.svg: .venv/.run
	mkdir -p build
	$(BIN)/diffsmooth-trt demo --html build/demo.html --figure $@

# The pictures of docs/reports.md: the demo's page, and its gallery alone. Chromium takes them.
CHROMIUM ?= chromium
SHOOT = $(CHROMIUM) --headless=new --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=3000
OTHERS = header, footer, .figures, .columns, \#curve, \#made { display: none } section { margin-top: 0 !important }
docs/report.png docs/gallery.png &: .venv/.run $(wildcard diffsmooth_trt/report/template/*)
	mkdir -p build
	$(BIN)/diffsmooth-trt demo --html build/demo.html --figure build/demo.png
	sed 's|^</style>|$(OTHERS)&|' build/demo.html > build/gallery.html
	$(SHOOT) --window-size=1280,1180 --screenshot=docs/report.png file://$(CURDIR)/build/demo.html 2> build/chromium.log
	$(SHOOT) --window-size=1280,1010 --screenshot=docs/gallery.png file://$(CURDIR)/build/gallery.html 2>> build/chromium.log

# The sampler's own tests with its code checked at run time: addresses, and what C++ leaves undefined.
RUNTIMES = $$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)
sanitize: .venv/.test
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g" $(BIN)/python setup.py -q \
	  build_ext --build-lib build/sanitized --build-temp build/sanitized-objects
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=tests/support OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -p sanitized -p no:cacheprovider tests/noise/test_sampler.py tests/noise/test_selftest.py -k "not little_time"

.venv/.made:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.run: .venv/.made $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[cpu]'
	touch $@

# torch first and by version: a plain torch brings gigabytes of CUDA packages
.venv/.test: .venv/.run
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[cpu,export,hf,quantize,ray,test]'
	touch $@

# The Python bindings alone, of both majors, outside the environment's own packages: what tests/engine/test_tensorrt_api.py
# holds our code to. It skips where there are none for the platform.
.venv/.tensorrt: .venv/.made
	for major in 10 11; do \
	  $(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/trt$$major "tensorrt-cu13-bindings==$$major.*" || exit 1; \
	done && touch $@ || echo "no TensorRT bindings for this platform: the test of their API skips"

# TensorRT for RTX, the real builder, outside the environment's own packages: what tests/exporting/test_rtx.py builds plans with.
# It skips where there is none for the platform.
.venv/.rtx: .venv/.made
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/rtx "tensorrt-rtx-cu13==1.7.*" && touch $@ \
	  || echo "no TensorRT for RTX for this platform: the tests that build plans skip"

.venv/.lint: .venv/.test
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	touch $@

.venv/.docs: .venv/.run
	$(BIN)/python -m pip install --quiet --editable '.[cpu,docs]'
	touch $@

clean:
	rm -rf .venv build *.egg-info diffsmooth_trt/*.so
