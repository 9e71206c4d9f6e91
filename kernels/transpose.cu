// SPDX-License-Identifier: Apache-2.0
// Moving an axis to the end and back: the transposition of many matrices, in tiles.

constexpr u32 TILE = 32;

// `from[m][r][c]` to `to[m][c][r]`, elements of 2 or 4 bytes. A block of threads has a tile.
KERNEL transpose(const u8* from, u8* to, u64 n_rows, u64 n_columns, u64 size) {
    __shared__ u32 tile[TILE][TILE + 1];  // padded, so that columns lie in different banks
    u64 across = (n_columns + TILE - 1) / TILE, down = (n_rows + TILE - 1) / TILE;
    u64 i = block_index(), matrix = i / (across * down) * n_rows * n_columns;
    u64 row = i / across % down * TILE, column = i % across * TILE;
    u32 x = thread_index() % TILE;
    for (u32 y = thread_index() / TILE; y < TILE; y += n_threads() / TILE) {
        u64 at = matrix + (row + y) * n_columns + column + x;
        if (row + y >= n_rows || column + x >= n_columns) continue;
        tile[y][x] = size == 4 ? reinterpret_cast<const u32*>(from)[at]
                               : reinterpret_cast<const u16*>(from)[at];
    }
    sync_block();
    for (u32 y = thread_index() / TILE; y < TILE; y += n_threads() / TILE) {
        u64 at = matrix + (column + y) * n_rows + row + x;
        if (column + y >= n_columns || row + x >= n_rows) continue;
        if (size == 4) reinterpret_cast<u32*>(to)[at] = tile[x][y];
        else reinterpret_cast<u16*>(to)[at] = tile[x][y];
    }
}
