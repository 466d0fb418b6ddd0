// Copies all parameters of a network to the form that kernels read, by one launch: in the type of activations, and with
// matrices (taps, c_in, c_out) transposed to (c_out, taps, c_in), so that the terms of a product's sums are adjacent.
#include "common.cuh"

// A tile of 32 x 32 numbers of one matrix: the start of the matrix in either buffer, its sides, the distance between
// rows of its transpose, and the tile's first row and column.
struct PackTile { long long from, to, rows, columns, lead, row, column; };

// packed = flat with each tile transposed. Block (32, 8).
extern "C" __global__ void packed_parameters(const float* flat, scalar* packed, const long long* tiles) {
    PackTile at = *((const PackTile*)tiles + blockIdx.x);
    int rows = min(32, (int)(at.rows - at.row)), columns = min(32, (int)(at.columns - at.column));
    flat += at.from + at.row * at.columns + at.column;
    packed += at.to + at.column * at.lead + at.row;
    int x = threadIdx.x, y = threadIdx.y, wide = (int)at.columns, lead = (int)at.lead;
    float *tile = shared, read[4];  // (32, 33)
    for (int k = 0; k < 4; k++) {  // in place of numbers past the last, the last
        read[k] = flat[min(8 * k + y, rows - 1) * wide + min(x, columns - 1)];
    }
    for (int k = 0; k < 4; k++) tile[(8 * k + y) * 33 + x] = read[k];
    __syncthreads();
    for (int k = 0; k < 4; k++) {
        int column = 8 * k + y;
        if (x < rows && column < columns) packed[(size_t)column * lead + x] = store(tile[x * 33 + column]);
    }
}
