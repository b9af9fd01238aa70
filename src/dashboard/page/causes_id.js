// Terjemahan sebab-sebab penolakan: kalimat, lalu yang harus dilakukan. Tanpa terjemahan, halaman memakai kata-kata server.

/** @type {Record<string, [string, string] | undefined>} */
export const causes = {};
