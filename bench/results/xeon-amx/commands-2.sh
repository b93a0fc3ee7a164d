# 22 November: before (kvasir_orig) and after the AMX kernels, alternating; the sampler is a SIGPROF preload that is not part of the project.
mkdir -p /work /tmp/amx /tmp/oracle; [ -e /work/main ] || ln -s "$PWD" /work/main; [ -e /work/wt ] || (mkdir -p /work/wt && ln -s "$PWD" /work/wt/kern)
python3 -c "import tarfile; tarfile.open('.kern/amx.tar.xz').extractall('/tmp/amx'); tarfile.open('tests/golden/oracle/tiny-flash.tar.xz').extractall('/tmp/oracle')"
export LD_LIBRARY_PATH=/tmp/amx KVASIR_ORACLE=/tmp/oracle/tiny-flash
cd /tmp
timeout 60 /tmp/amx/cpu_test --gtest_filter='*amx*:Cpu*' 2>&1 | tee $OUT/cpu_test.log | grep -E "FAILED|PASSED|tests ran|Failure" | head -20
timeout 60 /tmp/amx/golden_test --gtest_filter='*amx*' 2>&1 | grep -E "FAILED|PASSED|tests ran|Failure" | tee $OUT/golden_test.log
B="bench --synthetic flash --layers 4 --vocab 4096 --threads 16 --context 512,4096,8192,8192"
for r in 1 2; do
/tmp/amx/kvasir_orig $B 2>&1 | tee $OUT/flash4-fast-16-before-$r.txt | grep -E "prefill|rate|decode  .*8192"
/tmp/amx/kvasir $B --out $OUT/flash4-fast-16-$r.json 2>&1 | tee $OUT/flash4-fast-16-$r.txt| grep -E "prefill|rate|decode  .*8192"
done
SAMPLES=/tmp/s.txt timeout 60 env LD_PRELOAD=/tmp/amx/sampler.so /tmp/amx/kvasir bench --synthetic flash --layers 4 --vocab 4096 --threads 16 --context 4096,4096,8192 > /dev/null 2>&1
python3 /tmp/amx/agg.py /tmp/s.txt /tmp/amx/kvasir.nm /tmp/pcs.txt | cut -c1-110 | head -22 | tee /tmp/prof.txt
timeout 60 /tmp/amx/linear_bench --only prefill --threads 16 --json $OUT/linear.json 2>&1 | grep fast
