set -x
mkdir -p /work /tmp/amx; [ -e /work/main ] || ln -s "$PWD" /work/main
python3 - <<'P'
import tarfile
tarfile.open('.nano/amx.tar.xz').extractall('/tmp/amx')
tarfile.open('tests/golden/oracle/tiny-flash.tar.xz').extractall('/tmp/oracle')
P
export LD_LIBRARY_PATH=/tmp/amx KVASIR_ORACLE=/tmp/oracle/tiny-flash
lscpu | grep -E "Model name|^CPU\(s\)|Flags|L2|L3" | cut -c1-3000 | tee $OUT/lscpu.txt | grep -oE "Model name.*|amx[a-z_0-9]*|avx512_bf16|avx512_vnni|L[23].*" | sort -u
set +x
timeout 100 /tmp/amx/cpu_test 2>&1 | tee $OUT/cpu_test.log | grep -E "FAILED|PASSED|tests ran|Failure" | head -20
timeout 150 /tmp/amx/golden_test --gtest_filter='*amx*:*avx512*' 2>&1 | tee $OUT/golden_test.log | grep -E "FAILED|PASSED|tests ran|Failure|attn.out|differ|mtp.log" | tail -60
for t in 2 16; do for n in fast native; do
timeout 120 /tmp/amx/kvasir bench --synthetic flash --layers 4 --vocab 4096 --threads $t --numerics $n --context 512,4096,8192 --out $OUT/flash4-$n-$t.json 2>&1 | tee $OUT/flash4-$n-$t.txt
done; done
timeout 100 /tmp/amx/kvasir bench --synthetic flash --layers 4 --vocab 4096 --threads 2 --cpu-isa avx512 --context 4096,8192 --out $OUT/flash4-avx512-2.json 2>&1 | tee $OUT/flash4-avx512-2.txt
