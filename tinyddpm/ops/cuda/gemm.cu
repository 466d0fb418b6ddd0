// Products of many small matrices, those of attention (tinyddpm/ops/attention.py): one product per sample and head.
//
// Matrix (sample, head) begins at sample * `batch` + head * `head`, and its rows are `lead` numbers apart. So heads
// that are side by side in a row of channels are read and written in place. Blocks are numbered along the columns of a
// product first, then along its rows, then over heads and samples.
#include "product.cuh"

struct Part {
    int m, n, sample, head;

    __device__ Part(int rows, int columns, int heads) {
        int across = quotient_up(columns, TILE), down = quotient_up(rows, TILE), pair = blockIdx.x / across / down;
        m = blockIdx.x / across % down * TILE;
        n = blockIdx.x % across * TILE;
        sample = pair / heads;
        head = pair % heads;
    }

    __device__ long long offset(long long batch_stride, long long head_stride) const {
        return sample * batch_stride + head * head_stride;
    }
};

// c = a b; a is (m, k), b is (k, n).
extern "C" __global__ void __launch_bounds__(128, 2) product_ab(
    const scalar* a, const scalar* b, scalar* c, int m, int n, int k, int heads, int a_lead,
    long long a_batch, long long a_head, int b_lead, long long b_batch, long long b_head, int c_lead, long long c_batch,
    long long c_head
) {
    Part part(m, n, heads);
    Matrix<false> rows(a + part.offset(a_batch, a_head), a_lead, m, k, part.m, 0);
    Matrix<true> columns(b + part.offset(b_batch, b_head), b_lead, k, n, 0, part.n);
    Output<scalar> output = {c + part.offset(c_batch, c_head), m, n, c_lead};
    product(rows, columns, quotient_up(k, K_STEP), output, part.m, part.n);
}

// c = a b^T; a is (m, k), b is (n, k).
extern "C" __global__ void __launch_bounds__(128, 2) product_abt(
    const scalar* a, const scalar* b, scalar* c, int m, int n, int k, int heads, int a_lead,
    long long a_batch, long long a_head, int b_lead, long long b_batch, long long b_head, int c_lead, long long c_batch,
    long long c_head
) {
    Part part(m, n, heads);
    Matrix<false> rows(a + part.offset(a_batch, a_head), a_lead, m, k, part.m, 0);
    Matrix<false> columns(b + part.offset(b_batch, b_head), b_lead, n, k, part.n, 0);
    Output<scalar> output = {c + part.offset(c_batch, c_head), m, n, c_lead};
    product(rows, columns, quotient_up(k, K_STEP), output, part.m, part.n);
}

// c = a^T b; a is (k, m), b is (k, n).
extern "C" __global__ void __launch_bounds__(128, 2) product_atb(
    const scalar* a, const scalar* b, scalar* c, int m, int n, int k, int heads, int a_lead,
    long long a_batch, long long a_head, int b_lead, long long b_batch, long long b_head, int c_lead, long long c_batch,
    long long c_head
) {
    Part part(m, n, heads);
    Matrix<true> rows(a + part.offset(a_batch, a_head), a_lead, k, m, 0, part.m);
    Matrix<true> columns(b + part.offset(b_batch, b_head), b_lead, k, n, 0, part.n);
    Output<scalar> output = {c + part.offset(c_batch, c_head), m, n, c_lead};
    product(rows, columns, quotient_up(k, K_STEP), output, part.m, part.n);
}
