// PTX instructions that C++ cannot express, one function each: products of tensor cores, loads of their operands, and
// asynchronous copies to shared memory. Compute capability 8.0 and later. PTX ISA 8.5, sections 9.7.14.5 (mma.sync
// m16n8k8 and m16n8k16, ldmatrix, and the layout of operands over lanes), 9.7.9.25 (cp.async) and 9.7.9.21 (cvt).
#pragma once

#ifndef CUDA_SHIM  // the tests' stand-in defines its own

// c += a b: a is 16 x 16 and b 16 x 8, bfloat16, two numbers per register; c is 16 x 8, float32.
__device__ inline void mma_bf16(float* c, const unsigned* a, unsigned b_0, unsigned b_1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_0), "r"(b_1)
    );
}

// c += a b: a is 16 x 8 and b 8 x 8, TF32; c is 16 x 8, float32.
__device__ inline void mma_tf32(float* c, const unsigned* a, unsigned b_0, unsigned b_1) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_0), "r"(b_1)
    );
}

// A float32 rounded to the 10 mantissa bits of TF32, ties away from zero.
__device__ inline unsigned tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// Loads four 8 x 8 matrices of 16-bit numbers. Lane l passes the address of row l % 8 of matrix l / 8, a multiple of
// 16. It receives two neighbours of each matrix, in row l / 4 from column 2 (l % 4) on.
__device__ inline void load_matrices(unsigned* words, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
        : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

// Loads the transposes of four such matrices.
__device__ inline void load_matrices_transposed(unsigned* words, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
        : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

// Begins to copy 16 bytes to shared memory: `bytes` of them from global memory, the rest zeros.
__device__ inline void begin_copy(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}

// Begins to copy `size` bytes, 4, 8 or 16, to shared memory; both addresses are multiples of it.
template <int size> __device__ inline void begin_copy(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
        :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "n"(size) : "memory");
}

// Makes one group of the copies that this thread has begun since its last group.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all of this thread's groups but the last `newest` are complete.
template <int newest> __device__ inline void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" :: "n"(newest) : "memory");
}
#endif
